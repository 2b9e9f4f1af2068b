"""/export and /import in a chat: the files of `mp13 history`, and nothing is overwritten unsaid."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from mp13.chat.conversation.ask import Ask
from mp13.chat.conversation.session import ChatSession
from mp13.chat.conversation.store import ConversationStore
from mp13.chat.settings.load import load_settings
from mp13.errors import ConfigError
from mp13.library.paths import data_dir
from tests.fakes.fake_client import FakeHost


@pytest_asyncio.fixture(params=["kept", "not kept", "no store"])
async def session(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[ChatSession]:
    """One whose conversations are kept, one with --no-log, and one whose store cannot be opened."""
    monkeypatch.chdir(tmp_path)
    if request.param == "no store":
        data_dir().mkdir(parents=True)
        (data_dir() / "conversations.db").write_bytes(b"no database" * 1000)
    settings = load_settings({"model": str(tmp_path), "log": str(request.param != "not kept").lower()})
    opened = ChatSession.open(settings, connect=FakeHost())  # type: ignore[arg-type]
    yield opened
    await opened.close()


async def say(session: ChatSession, text: str) -> None:
    async for _ in session.answer(Ask(text)):
        pass


async def test_the_conversation_on_the_screen_is_written_in_each_format(session: ChatSession, tmp_path: Path) -> None:
    await say(session, "hello")
    id = session.conversation_id[:8]
    assert (await session.command("/export")).message == f"1 conversation in mp13-{id}.md"
    assert (await session.command("/export json 'a name.json'")).message == "1 conversation in a name.json"
    assert (await session.command("/export x.jsonl")).message == "1 sample for training in x.jsonl"
    assert "## You\n\nhello" in (tmp_path / f"mp13-{id}.md").read_text()
    (row,) = [json.loads(line) for line in (tmp_path / "x.jsonl").read_text().splitlines()]
    assert [message["content"] for message in row["messages"]] == ["hello", "an answer"]
    with ConversationStore(tmp_path / "other.db") as other:
        from mp13.chat.history.importing import import_file

        import_file(tmp_path / "a name.json", other)
        assert other.turns(session.conversation_id) == session.turns


async def test_a_file_that_is_there_is_not_overwritten_unless_told(session: ChatSession, tmp_path: Path) -> None:
    await say(session, "hello")
    (tmp_path / "a.md").write_text("mine")
    with pytest.raises(ConfigError, match=r"a\.md exists; give --force"):
        await session.command("/export a.md")
    assert (tmp_path / "a.md").read_text() == "mine"
    await session.command("/export a.md --force")
    assert "hello" in (tmp_path / "a.md").read_text()


@pytest.mark.parametrize(
    ("line", "told"),
    [("/export", "nothing to export yet"), ("/export a b", "writes one file"), ("/export 'a", "close the quotation"),
     ("/export a.pdf", "'pdf' of a.pdf says no format"), ("/import", "needs one file"),
     ("/import a b", "needs one file")],
)  # fmt: skip
async def test_what_cannot_be_done_is_a_sentence(session: ChatSession, line: str, told: str) -> None:
    if "pdf" in line:
        await say(session, "hello")
    with pytest.raises(ConfigError, match=told):
        await session.command(line)


async def test_an_imported_conversation_can_be_gone_on_with(session: ChatSession, tmp_path: Path) -> None:
    said = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
    (tmp_path / "a.json").write_text(json.dumps(said))
    if session.store is None:
        with pytest.raises(ConfigError, match="--no-log"):
            await session.command("/import a.json")
        return
    message = (await session.command("/import a.json")).message
    assert message.startswith("1 conversation imported; /resume ")
    await session.command(message.split("; ")[1].removesuffix(" goes on with it"))
    await say(session, "and now")
    assert [turn.text for turn in session.turns] == ["hi", "ho", "and now", "an answer"]
