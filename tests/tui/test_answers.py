"""Answers: streamed, badged, waited for, stopped, broken off."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from mp13.chat.conversation.ask import Ask
from mp13.chat.conversation.turn import EngineFailed, EngineReady, LoadProgress, SessionEvent
from mp13.chat.tui.widgets.turns import Answer, Question
from mp13.errors import ContextError, ModelError, Mp13Error
from tests.fakes.fake_session import ENGINE, FakeSession
from tests.tui.conftest import Chat, chatting


def words(chat: Chat) -> list[str]:
    return [word for word in chat.shown(chat.transcript).split() if word.isalnum()]


class TestStreaming:
    async def test_an_answer_is_seen_while_it_is_written(self) -> None:
        gate = asyncio.Event()
        async with chatting(FakeSession(["The **first**", " half", gate, ", the second."])) as chat:
            await chat.send("go")
            await chat.sees("The first half", "base · …")
            assert "second" not in chat.shown()
            gate.set()
            await chat.sees("The first half, the second.", "base · 38 tok/s · 120 cached")

    async def test_what_was_streamed_in_pieces_equals_the_answer_drawn_whole(self) -> None:
        text = (
            "# Title\n\nA *b* `c`\nd\n\n1. one\n2. two\n   - x\n\n```py\nif a:\n    b\n```\n\n"
            "| a | b |\n|--|--|\n| 1 | 2 |\n\n> quoted\n"
        )
        drawn = []
        for steps in (list(text), [text]):
            async with chatting(FakeSession(steps), size=(60, 60)) as chat:
                await chat.say("go")
                await chat.sees("quoted", "38 tok/s")
                drawn.append(chat.shown(chat.transcript))
        assert "if a:" in drawn[0]
        assert drawn[0] == drawn[1]

    async def test_an_answer_may_end_just_when_its_first_words_are_drawn(self) -> None:
        """The task that draws them has not begun yet."""
        async with chatting(FakeSession([asyncio.Event()])) as chat:
            await chat.send("go")
            await chat.until(lambda: chat.app.screen.query(Answer))
            answer = chat.app.screen.query_one(Answer)
            answer.feed("word")
            flush = answer._flush()
            flush.send(None)  # as far as it comes without waiting
            await answer.finish(None)
            with pytest.raises(StopIteration):
                flush.send(None)
            await chat.sees("word")

    async def test_the_end_is_followed_while_the_reader_is_there(self) -> None:
        lines = [f"line {number}\n\n" for number in range(40)]
        async with chatting(FakeSession(lines)) as chat:
            await chat.say("go")
            await chat.sees("line 39")

    async def test_the_screen_stays_where_the_reader_scrolled(self) -> None:
        gate = asyncio.Event()
        lines = [f"line {number}\n\n" for number in range(40)]
        async with chatting(FakeSession([*lines, gate, *lines])) as chat:
            await chat.send("go")
            await chat.sees("line 39")
            await chat.press("pageup")
            await chat.until(lambda: chat.transcript.scroll_y < chat.transcript.max_scroll_y)
            await chat.pilot.pause(0.2)  # the frame after the scroll
            where, end, seen = chat.transcript.scroll_y, chat.transcript.max_scroll_y, words(chat)
            gate.set()
            await chat.rests()
            await chat.until(lambda: chat.transcript.max_scroll_y > end)
            assert chat.transcript.scroll_y == where
            assert words(chat) == seen

    async def test_the_status_line_tells_speed_cache_and_context(self) -> None:
        async with chatting(FakeSession()) as chat:
            await chat.say("go")
            assert chat.status.split() == "● base · smollm2-135m-instruct 38 tok/s · 120 cached · 190/8,192 ctx".split()


class TestWaiting:
    async def test_the_prompt_takes_typing_while_the_model_loads_and_the_answer_comes_when_it_is_ready(self) -> None:
        gate = asyncio.Event()
        load = [LoadProgress("reading weights", 0.25), gate, EngineReady(ENGINE)]
        async with chatting(FakeSession(["Hello."], load=load), ready=False) as chat:
            await chat.sees("reading weights", "25%")
            await chat.press("h", "i", "enter", "m", "o", "r", "e")
            await chat.sees("hi", "waiting", "more")
            assert chat.session.asked == []
            gate.set()
            await chat.sees("Hello.", "base · 38 tok/s")
            assert "waiting" not in chat.shown()
            assert chat.prompt.text == "more"

    async def test_prompts_sent_during_an_answer_are_answered_in_order_each_under_its_question(self) -> None:
        gate = asyncio.Event()
        async with chatting(FakeSession([gate, "one"], ["two"], ["three"])) as chat:
            for text in ("first", "second", "third"):
                await chat.send(text)
            await chat.sees("third")
            assert [row.waiting for row in chat.transcript.query(Question)] == [False, True, True]
            gate.set()
            await chat.rests()
            assert [type(row) for row in chat.transcript.rows] == [Question, Answer] * 3
            assert [text for _, text in chat.session.asked] == ["first", "second", "third"]

    async def test_esc_takes_a_waiting_prompt_back_to_be_changed(self) -> None:
        async with chatting(FakeSession(load=[asyncio.Event()]), ready=False) as chat:
            await chat.until(lambda: chat.conversation._session)
            await chat.send("not yet")
            await chat.sees("waiting")
            await chat.press("escape")
            await chat.until(lambda: "waiting" not in chat.shown())
            assert chat.prompt.text == "not yet"

    async def test_a_command_sent_while_an_answer_is_written_holds_from_the_next_prompt_on(self) -> None:
        gate = asyncio.Event()
        async with chatting(FakeSession([gate, "one"], ["two"])) as chat:
            await chat.send("first")
            await chat.send("/adapter pirate")
            await chat.send("second")
            gate.set()
            await chat.rests()
            assert chat.session.asked == [("base", "first"), ("pirate", "second")]
            await chat.sees("base · 38 tok/s", "pirate answers from here on", "pirate · 38 tok/s")

    async def test_commands_do_not_wait_for_the_engine(self) -> None:
        async with chatting(FakeSession(load=[asyncio.Event()]), ready=False) as chat:
            await chat.until(lambda: chat.conversation._session)
            await chat.send("/adapter pirate")
            await chat.sees("pirate answers from here on", "● pirate")

    async def test_a_new_conversation_keeps_the_prompts_that_still_wait(self) -> None:
        gate = asyncio.Event()
        async with chatting(FakeSession([gate, "one"], ["two"])) as chat:
            for text in ("first", "/new", "second"):
                await chat.send(text)
            gate.set()
            await chat.rests()
            await chat.sees("second", "two", "a new conversation")
            assert "first" not in chat.shown()


class TestStopping:
    async def test_esc_stops_the_answer_which_is_kept_and_marked(self) -> None:
        async with chatting(FakeSession(["The half", asyncio.Event()], ["Again."])) as chat:
            await chat.send("go")
            await chat.sees("The half", "Esc Stop")
            await chat.press("escape")
            await chat.sees("The half", "base · stopped")
            assert chat.session.turns[-1].finish_reason == "abort"
            assert "Esc Stop" not in chat.shown()
            await chat.say("once more")
            await chat.sees("Again.")

    async def test_esc_before_the_first_word_leaves_the_question(self) -> None:
        async with chatting(FakeSession([asyncio.Event()])) as chat:
            await chat.send("go")
            await chat.sees("base · …")
            await chat.press("escape")
            await chat.sees("go", "base · stopped")

    async def test_esc_stops_a_command_that_takes_long(self, monkeypatch: pytest.MonkeyPatch) -> None:
        session = FakeSession()
        monkeypatch.setattr(session, "set_mix", lambda mix: asyncio.Event().wait())
        async with chatting(session) as chat:
            await chat.send("/adapter pirate")
            await chat.sees("Esc Stop")
            await chat.press("escape")
            await chat.sees("/adapter pirate: stopped")
            await chat.say("go")
            await chat.sees("Hello.")

    async def test_esc_between_the_last_word_and_the_end_changes_nothing(self) -> None:
        session = FakeSession()
        answer = session.answer

        async def slow_to_end(ask: Ask) -> AsyncIterator[SessionEvent]:
            async for event in answer(ask):
                yield event
            await asyncio.Event().wait()

        session.answer = slow_to_end  # type: ignore[method-assign, assignment]
        async with chatting(session) as chat:
            await chat.send("go")
            await chat.sees("Hello.", "38 tok/s", "Esc Stop")
            await chat.press("escape")
            await chat.rests()
            await chat.sees("Hello.", "38 tok/s")

    async def test_an_answer_under_way_is_kept_when_the_chat_ends(self) -> None:
        session = FakeSession(["The half", asyncio.Event()])
        async with chatting(session) as chat:
            await chat.send("go")
            await chat.sees("The half")
        assert session.turns[-1].finish_reason == "abort"
        assert session.closed


class TestTrouble:
    async def test_an_engine_that_cannot_load_is_a_sentence_and_typing_goes_on(self) -> None:
        failure = EngineFailed(ModelError("there is no model 'x'; give a folder"))
        gate = asyncio.Event()
        async with chatting(FakeSession(load=[gate, failure]), ready=False) as chat:
            await chat.until(lambda: chat.conversation._session)
            await chat.send("hi")
            gate.set()
            await chat.sees("there is no model 'x'; give a folder", "no engine", "Not sent, because the engine")
            assert chat.session.asked == []
            await chat.press("up")
            assert chat.prompt.text == "hi"

    async def test_a_defect_while_loading_is_a_sentence(self) -> None:
        async with chatting(FakeSession(load=[ZeroDivisionError("division by zero")])) as chat:
            await chat.sees("This should not happen: ZeroDivisionError: division by zero")

    async def test_a_prompt_that_cannot_be_answered_says_why_under_it(self) -> None:
        async with chatting(
            FakeSession([ContextError("the prompt has 9,000 tokens; the context holds 8,192")])
        ) as chat:
            await chat.say("go")
            await chat.sees("the prompt has 9,000 tokens; the context holds 8,192")
            assert not chat.transcript.query(Answer)

    async def test_an_engine_that_dies_in_an_answer_leaves_it_marked_and_the_next_prompt_is_answered(self) -> None:
        death = Mp13Error("the engine process has ended; send the prompt again")
        async with chatting(FakeSession(["The half", death], [LoadProgress("reading weights", 0.5), "Back."])) as chat:
            await chat.say("go")
            await chat.sees("The half", "base · stopped", "the engine process has ended")
            await chat.say("again")
            await chat.sees("Back.", "base · 38 tok/s")

    async def test_a_defect_in_an_answer_is_a_sentence(self) -> None:
        async with chatting(FakeSession([KeyError("x")])) as chat:
            await chat.say("go")
            await chat.sees("This should not happen: KeyError: 'x'")
