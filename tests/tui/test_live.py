"""The last answer follows the weights as a preview, which is kept or dropped."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from mp13.chat.conversation.turn import Turn
from mp13.chat.tui.widgets.turns import Answer
from tests.fakes.fake_session import FakeSession, Step, answer
from tests.tui.conftest import Chat, chatting

WIDE = (120, 36)
TURNS = (Turn("user", "What is the sea?", "json"), answer("The sea of before.", "json"))


@asynccontextmanager
async def following(*answers: list[Step]) -> AsyncIterator[Chat]:
    """The focus is on json in the panel, the last answer follows, and was previewed under the mix that it has."""
    async with chatting(FakeSession(["As it was."], turns=TURNS, mix="json"), size=WIDE) as chat:
        await chat.until(lambda: "pirate" in chat.shown())
        await chat.press("f4", "f")
        await chat.sees("As it was.", "a preview: Enter keeps it", "the last answer follows")
        chat.session.script(*answers)
        yield chat


async def test_it_is_written_again_when_a_weight_moves_and_nothing_is_kept() -> None:
    async with following(["Half a sea."]) as chat:
        await chat.press("left", "left")
        await chat.sees("Half a sea.")
        shown = chat.shown()
        assert ("As it was." in shown, "The sea of before." in shown) == (False, False)
        assert chat.session.asked[-1] == ("json:0.8", "What is the sea?")
        assert [turn.text for turn in chat.session.answers] == ["The sea of before."]


async def test_the_latest_change_wins_and_what_was_being_written_is_stopped() -> None:
    never = asyncio.Event()
    async with following(["begun", never], ["Whole."]) as chat:
        await chat.press("left")
        await chat.sees("begun")
        await chat.press("left")
        await chat.sees("Whole.")
        assert "begun" not in chat.shown()
        assert [mix for mix, _ in chat.session.asked] == ["json", "json:0.9", "json:0.8"]
        assert len(chat.session.turns) == 2


async def test_enter_keeps_it_beside_the_answer() -> None:
    async with following(["Half a sea."]) as chat:
        await chat.press("left")
        await chat.sees("Half a sea.")
        await chat.press("enter")
        await chat.until(lambda: "a preview" not in chat.shown())
        assert [turn.text for turn in chat.session.answers] == ["The sea of before.", "Half a sea."]
        assert (chat.session.turns[-1].text, chat.session.turns[-1].mix) == ("Half a sea.", "json:0.9")
        assert [row.mix for row in chat.transcript.query(Answer)] == ["json:0.9"]


async def test_escape_drops_it_and_the_answer_is_seen_again() -> None:
    async with following(["Half a sea."]) as chat:
        await chat.press("left")
        await chat.sees("Half a sea.")
        await chat.press("escape")
        await chat.sees("The sea of before.")
        assert "Half a sea." not in chat.shown()
        assert [turn.text for turn in chat.session.answers] == ["The sea of before."]


async def test_a_prompt_drops_it() -> None:
    async with following(["Next."]) as chat:
        await chat.say("go on")
        await chat.sees("The sea of before.", "go on", "Next.")
        assert "As it was." not in chat.shown()


async def test_the_key_turns_it_off_again() -> None:
    async with following(["Half a sea."]) as chat:
        await chat.press("escape", "f", "left")
        await chat.until(lambda: chat.session.mix == "json:0.9")
        await chat.rests()
        assert len(chat.session.asked) == 1
        assert "the last answer follows" not in chat.shown()


async def test_a_failure_is_told_and_the_answer_comes_back() -> None:
    from mp13.errors import ContextError

    async with following([ContextError("the context is full")]) as chat:
        await chat.press("left")
        await chat.sees("the context is full", "The sea of before.")


async def test_another_conversation_with_another_mix_begins_without_a_preview() -> None:
    async with following() as chat:
        asked = len(chat.session.asked)
        await chat.say("/fork")
        await chat.sees("a conversation of its own", "The sea of before.")
        assert len(chat.session.asked) == asked
