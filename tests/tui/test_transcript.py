"""Long and resumed conversations: a window of rows is drawn, and none is lost."""

import re

import pytest

from mp13.chat.conversation.turn import Turn
from mp13.chat.tui.widgets import transcript
from tests.fakes.fake_session import FakeSession, answer
from tests.tui.conftest import Chat, chatting

PAGE, LIMIT = 10, 18  # rows: small, so that little is enough to move the window


def conversation(length: int) -> list[Turn]:
    turns: list[Turn] = []
    for number in range(length):
        turns += [
            Turn("user", f"question {number}", "base"),
            answer(f"answer {number}", ("base", "pirate")[number % 2]),
        ]
    return turns


@pytest.fixture(autouse=True)
def small_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transcript, "PAGE", PAGE)
    monkeypatch.setattr(transcript, "LIMIT", LIMIT)


def numbers(chat: Chat) -> list[int]:
    return [int(number) for number in re.findall(r"answer (\d+)", chat.shown())]


class TestResume:
    async def test_the_earlier_turns_are_there_with_their_badges(self) -> None:
        turns = [
            *conversation(2),
            Turn("user", "stop here", "pirate"),
            Turn("assistant", "The half", "pirate", finish_reason="abort"),
        ]
        async with chatting(FakeSession(turns=turns, mix="pirate"), size=(80, 40)) as chat:
            await chat.sees("question 0", "answer 0", "base · 38 tok/s", "answer 1", "pirate · 38 tok/s")
            await chat.sees("stop here", "The half", "pirate · stopped")
            assert "● pirate" in chat.status

    async def test_the_end_is_what_is_seen_first(self) -> None:
        async with chatting(FakeSession(turns=conversation(40))) as chat:
            await chat.sees("answer 39")
            assert len(chat.transcript.rows) == PAGE

    async def test_a_tall_screen_is_filled(self) -> None:
        async with chatting(FakeSession(turns=conversation(40)), size=(80, 90)) as chat:
            await chat.sees("answer 39", "answer 30")
            assert chat.transcript.max_scroll_y > 0


class TestLongConversation:
    async def test_scrolling_up_shows_every_turn_once_and_down_again_too(self) -> None:
        async with chatting(FakeSession(turns=conversation(20))) as chat:
            await chat.sees("answer 19")
            seen: list[int] = []
            while 0 not in seen:
                seen += numbers(chat)
                await self._turn_page(chat, "pageup")
            assert set(seen) == set(range(20))
            assert len(chat.transcript.rows) <= LIMIT
            while 19 not in numbers(chat):
                await self._turn_page(chat, "pagedown")
                seen += numbers(chat)
            assert len(chat.transcript.rows) <= LIMIT

    async def test_the_window_moves_without_moving_what_is_read(self) -> None:
        async with chatting(FakeSession(turns=conversation(20))) as chat:
            await chat.sees("answer 19")
            while chat.transcript.scroll_y > 0:
                top = min(numbers(chat))
                await self._turn_page(chat, "pageup")
                assert top - 5 <= min(numbers(chat)) <= top

    async def test_sending_from_far_up_goes_to_the_end(self) -> None:
        async with chatting(FakeSession(["the newest"], turns=conversation(20))) as chat:
            await chat.sees("answer 19")
            while 0 not in numbers(chat):
                await self._turn_page(chat, "pageup")
            await chat.say("go")
            await chat.sees("the newest", "answer 19")

    async def test_a_conversation_that_grows_keeps_few_rows_and_loses_none(self) -> None:
        async with chatting(FakeSession()) as chat:
            for number in range(LIMIT // 2 + 2):
                chat.session.script([f"answer {number}"])
                await chat.say("go")
            assert len(chat.transcript.rows) <= LIMIT
            while 0 not in numbers(chat):
                await self._turn_page(chat, "pageup")

    @staticmethod
    async def _turn_page(chat: Chat, key: str) -> None:
        await chat.press(key)
        await chat.until(lambda: not chat.transcript._is_shifting)
