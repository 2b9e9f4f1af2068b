"""What a reader may choose when the context is full."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from syrupy.assertion import SnapshotAssertion

from mp13.chat.conversation.room import Room
from mp13.chat.conversation.store import ConversationStore
from mp13.chat.conversation.turn import Turn
from mp13.chat.tui.screens.full import FullScreen
from mp13.errors import ContextError
from mp13.service.schema import CountReport
from tests.fakes.fake_session import FakeSession
from tests.fakes.stored import stored
from tests.tui.conftest import Chat, chatting
from tests.tui.test_screens import Size, at_each_size

FULL = ContextError("the prompt has 9,000 tokens; the context holds 8,192")
SCRIPT = (["First."], ["Second."], [FULL], ["It fits."])


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ConversationStore]:
    with stored(tmp_path / "conversations.db", now=time.time()) as store:
        yield store


async def fill(chat: Chat) -> None:
    """Two exchanges, and a prompt for which there is no room."""
    session = chat.session
    await chat.say("one")
    await chat.say("two")

    async def count(turns: list[Turn], prompt: Turn, begun: Turn | None = None) -> CountReport:
        return CountReport(session.next_room.prompt_tokens, session.next_room.context_limit)

    session._asking.count = count  # type: ignore[method-assign]
    await chat.send("three")
    await chat.until(lambda: isinstance(chat.app.screen, FullScreen))
    await chat.sees("The context is full")


def texts(chat: Chat) -> list[str]:
    return [turn.text for turn in chat.session.turns]


class TestChoice:
    async def test_it_says_how_much_would_be_left_out(self, store: ConversationStore) -> None:
        async with chatting(FakeSession(*SCRIPT, store=store)) as chat:
            await fill(chat)
            await chat.sees(
                "9,000 tokens", "8,192", "Down mark · Enter choose", "Leave out the oldest exchange (3,000 tokens)"
            )
            assert "9,000/8,192 ctx" in chat.status

    async def test_the_oldest_may_be_left_out(self, store: ConversationStore) -> None:
        async with chatting(FakeSession(*SCRIPT, store=store)) as chat:
            await fill(chat)
            await chat.press("enter")  # of who is still typing: it chooses nothing
            await chat.press("down", "enter")
            await chat.sees("It fits.")
            await chat.rests()
            assert texts(chat) == ["one", "First.", "two", "Second.", "three", "It fits."]
            assert chat.session.turns[4].skipped == 1

    async def test_a_branch_begins_with_the_last_turns(self, store: ConversationStore) -> None:
        async with chatting(FakeSession(*SCRIPT, store=store)) as chat:
            before = chat.session.conversation_id
            await fill(chat)
            await chat.press("down", "down", "enter")
            await chat.sees("It fits.")
            await chat.rests()
            assert texts(chat) == ["two", "Second.", "three", "It fits."]
            assert chat.session.conversation_id != before
            assert [turn.text for turn in store.turns(before)] == ["one", "First.", "two", "Second."]

    @pytest.mark.parametrize("keys", [("escape",), ("down", "down", "down", "enter")])
    async def test_cancel_gives_the_prompt_back_and_changes_nothing(
        self, keys: tuple[str, ...], store: ConversationStore
    ) -> None:
        async with chatting(FakeSession(*SCRIPT, store=store)) as chat:
            await fill(chat)
            await chat.press(*keys)
            await chat.until(lambda: chat.prompt.text == "three" and len(texts(chat)) == 4)
            assert texts(chat) == ["one", "First.", "two", "Second."]

    async def test_where_leaving_out_does_not_help_the_prompt_comes_back(self, store: ConversationStore) -> None:
        session = FakeSession(*SCRIPT, store=store)
        session.next_room = Room(9000, 8500, 2, 8192)
        async with chatting(session) as chat:
            await chat.say("one")
            await chat.say("two")
            await chat.send("three")
            await chat.until(lambda: chat.prompt.text == "three")
            assert not isinstance(chat.app.screen, FullScreen)


@at_each_size
async def test_its_picture(size: Size, picture: SnapshotAssertion) -> None:
    async with chatting(FakeSession(*SCRIPT), size=size) as chat:
        await fill(chat)
        assert await chat.still() == picture
