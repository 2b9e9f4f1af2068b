"""What each screen looks like. After a change that is meant: look at it, then `pytest tests/tui --snapshot-update`."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from syrupy.assertion import SnapshotAssertion
from textual.widgets import Input

from mp13.chat.conversation.store import ConversationStore
from mp13.chat.conversation.turn import LoadProgress, Turn
from mp13.chat.settings.load import change_settings
from tests.fakes.fake_session import FakeSession, answer
from tests.fakes.stored import Kept, stored
from tests.tui.conftest import chatting

MARKDOWN = (
    "Arr, the **tide** be a pull of the *moon*:\n\n1. hoist the `mainsail`\n2. mind the reef\n\n"
    "```python\nprint(1)\n```\n\n| hour | height |\n|---|---|\n| 6 | 2 m |\n"
)
TURNS = (
    Turn("user", "What is the tide?", "base"),
    answer("The rise and fall of the sea, twice a day, as the moon and the sun pull at the water.", "base"),
    Turn("user", "And who\nmakes it?", "pirate"),
    answer("Arr, 'tis the moon that hauls the sea!", "pirate"),
    Turn("user", "Both of you?", "json:0.5+pirate:0.5"),
    answer('{"moon": "arr"}', "json:0.5+pirate:0.5"),
)
MIX = "json:0.5+pirate:0.5"
KEPT = (
    Kept("1", "A recipe for fish soup that is quick, cheap and feeds eight people", "Take a kilo of fish.", 7300),
    Kept("2", "JSON for an address book", age_s=1.5 * 86400),
    Kept("3", "Why is the sky blue?", age_s=3.5 * 86400),
    Kept("4", "月の話をしてください", age_s=9.5 * 86400),
)
SIZES = [(80, 24), (120, 36), (200, 60)]
at_each_size = pytest.mark.parametrize("size", SIZES, ids=[f"{width}x{height}" for width, height in SIZES])
Size = tuple[int, int]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ConversationStore]:
    with stored(tmp_path / "conversations.db", *KEPT, now=time.time()) as store:
        yield store


@at_each_size
class TestEverySize:
    async def test_welcome(self, size: Size, store: ConversationStore, picture: SnapshotAssertion) -> None:
        async with chatting(FakeSession(store=store), size=size) as chat:
            assert await chat.still() == picture

    async def test_conversation(self, size: Size, store: ConversationStore, picture: SnapshotAssertion) -> None:
        async with chatting(FakeSession(turns=TURNS, mix=MIX, store=store), size=size) as chat:
            await chat.sees("moon")
            assert await chat.still() == picture

    async def test_in_light(self, size: Size, store: ConversationStore, picture: SnapshotAssertion) -> None:
        session = FakeSession(turns=TURNS, mix=MIX, store=store)
        session.settings = change_settings(session.settings, {"theme": "mp13-light"}, "test")
        async with chatting(session, size=size) as chat:
            await chat.sees("moon")
            assert await chat.still() == picture

    async def test_without_colour(
        self, size: Size, store: ConversationStore, monkeypatch: pytest.MonkeyPatch, picture: SnapshotAssertion
    ) -> None:
        monkeypatch.setenv("NO_COLOR", "1")
        async with chatting(FakeSession(turns=TURNS, mix=MIX, store=store), size=size) as chat:
            await chat.press("f4")
            await chat.sees("moon", "Space In or out")
            assert await chat.still() == picture

    async def test_conversations_panel(self, size: Size, store: ConversationStore, picture: SnapshotAssertion) -> None:
        async with chatting(FakeSession(turns=TURNS, mix=MIX, store=store), size=size) as chat:
            await chat.press("f3", "down", "down")
            await chat.sees("Why is the sky")
            assert await chat.still() == picture

    async def test_search(self, size: Size, store: ConversationStore, picture: SnapshotAssertion) -> None:
        async with chatting(FakeSession(turns=TURNS, mix=MIX, store=store), size=size) as chat:
            await chat.press("f3", *"fish")
            await chat.until(lambda: "Why is the sky" not in chat.shown())
            assert await chat.still() == picture

    async def test_renaming(self, size: Size, store: ConversationStore, picture: SnapshotAssertion) -> None:
        async with chatting(FakeSession(turns=TURNS, mix=MIX, store=store), size=size) as chat:
            await chat.press("f3", "down", "down", "down", "f2")
            await chat.sees("Leave as it is")
            assert await chat.still() == picture

    async def test_adapters_panel(self, size: Size, store: ConversationStore, picture: SnapshotAssertion) -> None:
        async with chatting(FakeSession(turns=TURNS, mix=MIX, store=store), size=size) as chat:
            await chat.press("f4")
            await chat.sees("pirate")
            await chat.press("end")
            await chat.sees("max_lora_rank")
            assert await chat.still() == picture

    async def test_picker(self, size: Size, store: ConversationStore, picture: SnapshotAssertion) -> None:
        async with chatting(FakeSession(turns=TURNS, mix="pirate", store=store), size=size) as chat:
            await chat.press("ctrl+o")
            await chat.sees("Who answers next?")
            assert await chat.still() == picture

    async def test_help(self, size: Size, store: ConversationStore, picture: SnapshotAssertion) -> None:
        async with chatting(FakeSession(store=store), size=size) as chat:
            await chat.press("f1")
            await chat.sees("In the prompt")
            assert await chat.still() == picture

    async def test_palette(self, size: Size, store: ConversationStore, picture: SnapshotAssertion) -> None:
        async with chatting(FakeSession(turns=TURNS, store=store), size=size) as chat:
            await chat.press("ctrl+p")
            await chat.sees("/adapter [MIX]")
            chat.app.screen.query_one(Input).cursor_blink = False
            assert await chat.still() == picture

    async def test_themes(self, size: Size, store: ConversationStore, picture: SnapshotAssertion) -> None:
        async with chatting(FakeSession(turns=TURNS, mix=MIX, store=store), size=size) as chat:
            await chat.press("ctrl+t")
            await chat.sees("mp13-light")
            assert await chat.still() == picture

    async def test_completion(self, size: Size, store: ConversationStore, picture: SnapshotAssertion) -> None:
        async with chatting(FakeSession(turns=TURNS, store=store), size=size) as chat:
            await chat.press("/")
            await chat.sees("/adapter")
            assert await chat.still() == picture


class TestMoments:
    async def test_markdown(self, picture: SnapshotAssertion) -> None:
        async with chatting(FakeSession(turns=[answer(MARKDOWN, "pirate")]), size=(80, 30)) as chat:
            await chat.sees("2 m")
            assert await chat.still() == picture

    async def test_small_terminal(self, picture: SnapshotAssertion) -> None:
        async with chatting(FakeSession(turns=TURNS, mix=MIX), size=(40, 12)) as chat:
            await chat.sees("moon")
            assert await chat.still() == picture

    async def test_a_prompt_waits_for_the_model(self, picture: SnapshotAssertion) -> None:
        load = [LoadProgress("reading weights", 0.43), asyncio.Event()]
        async with chatting(FakeSession(load=load), ready=False) as chat:
            await chat.sees("43%")
            await chat.send("What is the tide?")
            await chat.sees("waiting", "Esc Stop")
            assert await chat.still() == picture


class TestResize:
    async def test_the_screen_follows_its_terminal(self) -> None:
        async with chatting(FakeSession(turns=TURNS)) as chat:
            for size in ((40, 12), (120, 40), (20, 8), (80, 24)):
                await chat.pilot.resize_terminal(*size)
                await chat.press("x")
                assert "x" in chat.shown(chat.prompt)
                assert chat.prompt.region.bottom <= size[1]
            await chat.sees("Both of you?", "smollm2")
