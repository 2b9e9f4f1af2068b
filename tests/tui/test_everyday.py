"""Reasoning that folds, copies, and the engine's life on the screen."""

import asyncio

import pytest
from syrupy.assertion import SnapshotAssertion

from mp13.chat.conversation.connection import EngineState
from mp13.chat.conversation.turn import EngineFailed, EngineReady, LoadProgress, Turn
from mp13.chat.tui.conductor import KEPT
from mp13.chat.tui.widgets.code_block import CopyWord
from mp13.chat.tui.widgets.reasoning import Reasoning
from mp13.errors import OutOfMemory
from mp13.service.client import EngineGone
from tests.fakes.fake_session import ENGINE, FakeSession, answer
from tests.tui.conftest import Chat, chatting
from tests.tui.test_screens import Size, at_each_size

THOUGHT = "<think>\nThe reader asks about [/] tides.\nThe moon it is.\n</think>\n\n"
CODE = "Two ways:\n\n```python\nprint(1)\n```\n\nor\n\n    print(2)\n"


class TestReasoning:
    async def test_it_is_folded_above_the_answer_and_f7_unfolds_it(self) -> None:
        async with chatting(FakeSession([THOUGHT, "The moon."])) as chat:
            await chat.say("who?")
            await chat.sees("▸ thought · 10 words", "The moon.")
            assert "<think>" not in chat.shown() and "tides" not in chat.shown()
            await chat.press("f7")
            await chat.sees("▾ thought", "The reader asks about [/] tides.")
            await chat.press("f7")
            await chat.until(lambda: "tides" not in chat.shown())

    async def test_a_click_unfolds_one(self) -> None:
        async with chatting(FakeSession(turns=[answer(THOUGHT + "One."), answer(THOUGHT + "Two.")])) as chat:
            await chat.sees("Two.")
            await chat.pilot.click(chat.transcript.query(Reasoning).last())
            assert [one.is_unfolded for one in chat.transcript.query(Reasoning)] == [False, True]

    async def test_while_the_model_thinks_the_line_shows_what(self) -> None:
        gates = asyncio.Event(), asyncio.Event()
        async with chatting(FakeSession(["<thi", "nk>first ", gates[0], "the moon", gates[1], "</think>Aye."])) as chat:
            await chat.send("who?")
            await chat.sees("thinking 0 s · 1 word  first")
            gates[0].set()
            await chat.sees("first the moon")
            gates[1].set()
            await chat.sees("thought for", "Aye.")
            assert "first the moon" not in chat.shown()

    async def test_one_cut_off_says_so(self) -> None:
        async with chatting(FakeSession(turns=[answer("<think>\nwell, then")])) as chat:
            await chat.sees("thought, cut off · 2 words")

    async def test_an_answer_without_has_no_line(self) -> None:
        async with chatting(FakeSession(turns=[answer("Plain.")])) as chat:
            await chat.sees("Plain.")
            assert not chat.transcript.query_one(Reasoning).display

    @at_each_size
    async def test_looks_like_this(self, size: Size, picture: SnapshotAssertion) -> None:
        turns = [Turn("user", "Who?", "base"), answer(THOUGHT + "The moon.\n\n" + CODE), answer(THOUGHT + "Folded.")]
        async with chatting(FakeSession(turns=turns), size=size) as chat:
            await chat.sees("Folded.")
            chat.transcript.query(Reasoning).first().toggle()
            assert await chat.still() == picture


class TestCopy:
    async def copied(self, chat: Chat, line: str) -> str:
        await chat.say(line)
        await chat.sees("copied")
        return chat.app.clipboard

    async def test_the_last_answer_without_its_thought(self) -> None:
        async with chatting(FakeSession(turns=[answer(THOUGHT + "The moon.")])) as chat:
            assert await self.copied(chat, "/copy") == "The moon."

    async def test_a_turn_by_its_number(self) -> None:
        async with chatting(FakeSession(turns=[Turn("user", "Who?", "base"), answer("I.")])) as chat:
            assert await self.copied(chat, "/copy 1") == "Who?"

    async def test_the_last_block_of_code_or_one_by_its_number(self) -> None:
        async with chatting(FakeSession(turns=[answer(CODE)])) as chat:
            assert await self.copied(chat, "/copy code") == "print(2)"
            assert await self.copied(chat, "/copy code 1") == "print(1)"

    async def test_a_click_on_a_block_copies_it(self) -> None:
        async with chatting(FakeSession(turns=[answer(CODE)])) as chat:
            await chat.sees("python · copy")
            word = chat.transcript.query(CopyWord).first()
            await chat.pilot.click(word, offset=(word.size.width - 1, 0))
            await chat.until(lambda: chat.app.clipboard == "print(1)")

    @pytest.mark.parametrize(
        ("line", "sentence"),
        [
            ("/copy", "there is no answer to copy yet"),
            ("/copy code", "no answer has a block of code"),
            ("/copy 7", "7"),
        ],
    )
    async def test_what_is_not_there_is_said(self, line: str, sentence: str) -> None:
        async with chatting(FakeSession()) as chat:
            await chat.say(line)
            await chat.sees(sentence)
            assert chat.app.clipboard == ""


class TestEngineLife:
    async def enter(self, chat: Chat, state: EngineState) -> None:
        chat.session._connection._enter(state)
        await chat.pilot.pause()

    async def test_busy_is_seen_with_what_waits(self) -> None:
        async with chatting(FakeSession(), size=(100, 30)) as chat:
            await self.enter(chat, EngineState("ready", running=1))
            assert "busy ·" in chat.status
            await self.enter(chat, EngineState("ready", running=2, waiting=3))
            assert "busy with 2, 3 waiting" in chat.status
            await self.enter(chat, EngineState("ready"))
            assert "busy" not in chat.status

    async def test_an_engine_that_ends_is_seen_at_once_and_restart_brings_it_back(self) -> None:
        load = [LoadProgress("reading weights", 0.5), EngineReady(ENGINE)]
        async with chatting(FakeSession(load=load)) as chat:
            await self.enter(chat, EngineState("ended", error=EngineGone("the engine was killed")))
            assert "engine ended · /restart" in chat.status
            seen: list[str] = []
            tell = chat.conversation._tell
            chat.conversation._tell = lambda **changes: (seen.append(changes.get("loading", "")), tell(**changes))[1]
            await chat.say("/restart")
            await chat.until(lambda: "engine ended" not in chat.status)
            assert "restarting · reading weights" in seen

    async def test_out_of_memory_is_called_so(self) -> None:
        load = [EngineFailed(OutOfMemory("cpu ran out of memory while x was loaded"))]
        async with chatting(FakeSession(load=load)) as chat:
            await chat.sees("out of memory · /restart", "cpu ran out of memory while x was loaded")

    async def test_killed_in_mid_answer_the_part_is_kept_and_the_way_on_is_said(self) -> None:
        session = FakeSession(["The moon", EngineGone("the engine process was killed")], [" pulls."])
        async with chatting(session) as chat:
            await chat.say("who?")
            await chat.sees("The moon", "the engine process was killed", KEPT)
            assert session.turns[-1].finish_reason == "abort"
            await chat.say("/continue")
            await chat.sees("The moon pulls.")

    async def test_killed_before_a_word_there_is_nothing_to_go_on_with(self) -> None:
        async with chatting(FakeSession([EngineGone("the engine process was killed")])) as chat:
            await chat.say("who?")
            await chat.sees("the engine process was killed")
            assert KEPT not in chat.shown()
