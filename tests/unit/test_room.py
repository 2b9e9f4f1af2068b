"""How much of a conversation has room in the context, and a branch that leaves the oldest behind."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from mp13.errors import ConfigError
from tests.unit.test_session import Chats, ask


@pytest_asyncio.fixture
async def chats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Chats]:
    monkeypatch.setenv("MP13_DATA_DIR", str(tmp_path / "data"))
    opened = Chats(tmp_path)
    yield opened
    for session in opened.sessions:
        await session.close()


async def test_what_is_too_long_is_counted_with_and_without_the_oldest(chats: Chats) -> None:
    session = chats.open()
    for text in ("long " * 200, "long " * 200, "long " * 200):
        await ask(session, text)
    room = await session.room("base")
    assert room.prompt_tokens == 3 * 204 + 2 * 6
    assert room.context_limit == 512
    assert (room.dropped, room.kept_tokens) == (2, 204)
    assert room.is_enough


async def test_a_branch_leaves_the_oldest_behind_and_the_first_stays_as_it_was(chats: Chats) -> None:
    session = chats.open()
    for text in ("one", "two", "three"):
        await ask(session, text)
    before = session.conversation_id
    await session.command("/branch 2")
    assert [turn.text for turn in session.turns] == ["three", "an answer"]
    assert session.store is not None
    assert len(session.store.turns(before)) == 6
    assert len(session.store.turns(session.conversation_id)) == 2


async def test_more_than_there_is_cannot_be_left_behind(chats: Chats) -> None:
    session = chats.open()
    await ask(session, "one")
    with pytest.raises(ConfigError, match="to leave behind, 0 to 1"):
        await session.command("/branch 2")
    with pytest.raises(ConfigError, match="needs the number of exchanges"):
        await session.command("/branch all")
