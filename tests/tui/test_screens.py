"""What each feature looks like. After a change that is meant: look at it, then `pytest tests/tui --snapshot-update`."""

import asyncio

from syrupy.assertion import SnapshotAssertion

from mp13.chat.conversation.turn import LoadProgress, Turn
from tests.fakes.fake_session import FakeSession, answer
from tests.tui.conftest import chatting

MARKDOWN = (
    "Arr, the **tide** be a pull of the *moon*:\n\n1. hoist the `mainsail`\n2. mind the reef\n\n"
    "```python\nprint(1)\n```\n\n| hour | height |\n|---|---|\n| 6 | 2 m |\n"
)
TURNS = (
    Turn("user", "What is the tide?", "base"),
    answer("The rise and fall of the sea.", "base"),
    Turn("user", "And who\nmakes it?", "pirate"),
    answer("Arr, 'tis the moon that hauls the sea!", "pirate"),
    Turn("user", "Both of you?", "json:0.5+pirate:0.5"),
    answer('{"moon": "arr"}', "json:0.5+pirate:0.5"),
)


class TestConversation:
    async def test_welcome(self, picture: SnapshotAssertion) -> None:
        async with chatting(FakeSession()) as chat:
            assert chat.picture() == picture

    async def test_three_voices(self, picture: SnapshotAssertion) -> None:
        async with chatting(FakeSession(turns=TURNS, mix="json:0.5+pirate:0.5")) as chat:
            await chat.sees("moon")
            assert chat.picture() == picture

    async def test_three_voices_in_light(self, picture: SnapshotAssertion) -> None:
        async with chatting(FakeSession(turns=TURNS, mix="pirate")) as chat:
            await chat.sees("moon")
            await chat.press("ctrl+t")
            await chat.pilot.pause(0.3)
            assert chat.picture() == picture

    async def test_markdown(self, picture: SnapshotAssertion) -> None:
        async with chatting(FakeSession(turns=[answer(MARKDOWN, "pirate")]), size=(80, 30)) as chat:
            await chat.sees("2 m")
            assert chat.picture() == picture

    async def test_small_terminal(self, picture: SnapshotAssertion) -> None:
        async with chatting(FakeSession(turns=TURNS, mix="json:0.5+pirate:0.5"), size=(40, 12)) as chat:
            await chat.sees("moon")
            assert chat.picture() == picture


class TestLoading:
    async def test_a_prompt_waits_for_the_model(self, picture: SnapshotAssertion) -> None:
        load = [LoadProgress("reading weights", 0.43), asyncio.Event()]
        async with chatting(FakeSession(load=load), ready=False) as chat:
            await chat.sees("43%")
            await chat.send("What is the tide?")
            await chat.sees("waiting", "esc Stop")
            assert chat.picture() == picture


class TestDialogs:
    async def test_picker(self, picture: SnapshotAssertion) -> None:
        async with chatting(FakeSession(turns=TURNS)) as chat:
            await chat.say("/adapter pirate")
            await chat.press("ctrl+o")
            await chat.sees("Who answers next?")
            assert chat.picture() == picture

    async def test_help(self, picture: SnapshotAssertion) -> None:
        async with chatting(FakeSession(), size=(80, 80)) as chat:
            await chat.press("f1")
            await chat.sees("attention sdpa")
            assert chat.picture() == picture

    async def test_completion(self, picture: SnapshotAssertion) -> None:
        async with chatting(FakeSession()) as chat:
            await chat.press("/")
            await chat.sees("/adapter")
            assert chat.picture() == picture


class TestColour:
    async def test_no_color_leaves_everything_legible(self, monkeypatch, picture: SnapshotAssertion) -> None:
        monkeypatch.setenv("NO_COLOR", "1")
        async with chatting(FakeSession(turns=TURNS, mix="pirate")) as chat:
            await chat.sees("moon")
            assert chat.picture() == picture


class TestResize:
    async def test_the_screen_follows_its_terminal(self) -> None:
        async with chatting(FakeSession(turns=TURNS)) as chat:
            for size in ((40, 12), (120, 40), (20, 8), (80, 24)):
                await chat.pilot.resize_terminal(*size)
                await chat.press("x")
                assert "x" in chat.shown(chat.prompt)
                assert chat.prompt.region.bottom <= size[1]
            await chat.sees("Both of you?", "smollm2")
