"""The cursor over the turns of a conversation, and what its keys do to the turn under it."""

import asyncio
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mp13.chat.conversation.store import ConversationStore
from mp13.chat.conversation.turn import Turn
from mp13.chat.tui.widgets.turns import Answer, Question
from tests.fakes.fake_session import FakeSession, answer
from tests.fakes.stored import Kept, stored
from tests.tui.conftest import Chat, chatting

TURNS = (
    Turn("user", "What is the tide?", "base"),
    answer("The sea goes up and down.", "base"),
    Turn("user", "Who makes it?", "pirate"),
    answer("Arr, the moon.", "pirate"),
)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ConversationStore]:
    with stored(tmp_path / "conversations.db", Kept("1", "A fish soup"), now=time.time()) as store:
        yield store


def marked(chat: Chat) -> str:
    """The text of the turn under the cursor, as the screen has it."""
    rows = [row for row in chat.transcript.rows if row.has_class("-marked")]
    assert len(rows) <= 1
    return rows[0].turn.text if rows and rows[0].turn is not None else ""


def texts(chat: Chat) -> list[str]:
    return [turn.text for turn in chat.session.turns]


async def told(chat: Chat, sentence: str) -> None:
    """Wait for a notification."""
    await chat.until(lambda: any(sentence in one.message for one in chat.app._notifications))


class TestMoving:
    async def test_it_begins_at_the_last_turn_and_goes_up(self) -> None:
        async with chatting(FakeSession(turns=TURNS)) as chat:
            await chat.press("alt+up")
            assert marked(chat) == "Arr, the moon."
            await chat.press("alt+up", "up")
            assert marked(chat) == "The sea goes up and down."
            await chat.press("up", "up", "up")
            assert marked(chat) == "What is the tide?"

    async def test_below_the_last_turn_is_the_prompt(self) -> None:
        async with chatting(FakeSession(turns=TURNS)) as chat:
            await chat.press("alt+up", "alt+up", "alt+down", "down")
            await chat.until(lambda: chat.prompt.has_focus)
            assert marked(chat) == ""

    async def test_escape_goes_to_the_prompt_and_letters_are_text_again(self) -> None:
        async with chatting(FakeSession(turns=TURNS)) as chat:
            await chat.press("alt+up", "escape")
            await chat.until(lambda: chat.prompt.has_focus)
            await chat.press("d", "r")
            assert chat.prompt.text == "dr"

    async def test_a_letter_that_is_no_key_of_it_goes_to_the_prompt(self) -> None:
        async with chatting(FakeSession(turns=TURNS)) as chat:
            await chat.press("alt+up", "H", "i")
            assert chat.prompt.text == "Hi"
            assert marked(chat) == ""

    async def test_the_mouse_puts_it_on_a_turn(self) -> None:
        async with chatting(FakeSession(turns=TURNS)) as chat:
            await chat.pilot.click(chat.transcript.query(Question).first())
            await chat.until(lambda: marked(chat) == "What is the tide?")
            await chat.pilot.click(chat.transcript.query(Answer).last())
            await chat.until(lambda: marked(chat) == "Arr, the moon.")

    async def test_it_reaches_turns_that_are_not_on_the_screen(self) -> None:
        turns = [turn for n in range(40) for turn in (Turn("user", f"question {n}", "base"), answer(f"answer {n}"))]
        async with chatting(FakeSession(turns=turns)) as chat:
            await chat.press("alt+up")
            for _ in range(79):
                await chat.press("up")
            await chat.until(lambda: marked(chat) == "question 0")
            await chat.sees("question 0")
            for _ in range(30):
                await chat.press("down")
            await chat.until(lambda: marked(chat) == "question 15")
            await chat.sees("question 15")

    async def test_the_last_line_says_what_its_keys_do(self) -> None:
        async with chatting(FakeSession(turns=TURNS), size=(120, 36)) as chat:
            await chat.press("alt+up")
            await chat.sees("E Edit", "R Again", "D Details", "F Fork", "Del Delete")

    async def test_it_is_offered_as_soon_as_there_are_turns(self) -> None:
        async with chatting(FakeSession(turns=TURNS), size=(120, 36)) as chat:
            await chat.sees("Alt+Up Turns")

    async def test_where_nothing_was_said_there_is_none(self) -> None:
        async with chatting(FakeSession()) as chat:
            await chat.press("alt+up")
            assert chat.prompt.has_focus


class TestSiblings:
    async def test_another_answer_stands_beside_the_first_and_left_and_right_walk(self) -> None:
        async with chatting(FakeSession(["It is the sun."], turns=TURNS)) as chat:
            await chat.press("alt+up", "r")
            await chat.rests()
            await chat.sees("It is the sun.", "‹ 2/2 ›")
            await chat.press("alt+up", "left")
            await chat.sees("Arr, the moon.", "‹ 1/2 ›")
            assert marked(chat) == "Arr, the moon."
            await chat.press("right")
            await chat.sees("It is the sun.", "‹ 2/2 ›")
            assert marked(chat) == "It is the sun."
            assert not chat.app._notifications  # they would lie over the answer, and the badge says it already

    async def test_a_walk_high_up_keeps_that_turn_in_sight(self) -> None:
        turns = [turn for n in range(30) for turn in (Turn("user", f"question {n}", "base"), answer(f"answer {n}"))]
        async with chatting(FakeSession(["other"], turns=turns)) as chat:
            session = chat.session
            beside = replace(answer("another answer 0"), parent_id=session.turns[0].id, created_at=1.0)
            session._conversation._know(beside)
            session._conversation.go(session.turns[1])
            await chat.press("alt+up")
            for _ in range(58):
                await chat.press("up")
                await chat.pilot.pause()
            await chat.until(lambda: marked(chat) == "answer 0")
            await chat.press("left")
            await chat.sees("another answer 0", "‹ 1/2 ›")
            await chat.press("right")
            await chat.sees("‹ 2/2 ›", "question 1")
            assert marked(chat) == "answer 0"

    async def test_the_signs_can_be_clicked(self) -> None:
        async with chatting(FakeSession(["It is the sun."], turns=TURNS)) as chat:
            await chat.press("alt+up", "r")
            await chat.rests()
            await chat.sees("‹ 2/2 ›")
            line = next(y for y, text in enumerate(chat.shown().split("\n")) if "‹ 2/2 ›" in text)
            column = chat.shown().split("\n")[line].index("‹")
            await chat.pilot.click(offset=(column, line))
            await chat.sees("Arr, the moon.", "‹ 1/2 ›")

    async def test_past_the_last_nothing_happens(self) -> None:
        async with chatting(FakeSession(["It is the sun."], turns=TURNS)) as chat:
            await chat.press("alt+up", "right")
            await told(chat, "Nothing stands beside this turn.")
            assert texts(chat)[-1] == "Arr, the moon."


class TestEditing:
    async def test_the_turn_is_asked_differently_and_the_first_stays_beside_it(self) -> None:
        async with chatting(FakeSession(["It is the wind."], turns=TURNS)) as chat:
            await chat.press(*"half", "alt+up", "alt+up", "e")
            await chat.sees("Ask it differently", "Esc leaves it as it was")
            assert chat.prompt.text == "Who makes it?"
            await chat.press("end", "backspace", *" now?", "enter")
            await chat.rests()
            await chat.sees("Who makes it now?", "It is the wind.", "‹ 2/2 ›")
            assert texts(chat) == [*[turn.text for turn in TURNS[:2]], "Who makes it now?", "It is the wind."]
            assert chat.prompt.text == "half"
            assert "Ask it differently" not in chat.shown()

    async def test_on_an_answer_its_prompt_is_edited(self) -> None:
        async with chatting(FakeSession(turns=TURNS)) as chat:
            await chat.press("alt+up", "e")
            assert chat.prompt.text == "Who makes it?"

    async def test_escape_leaves_it_as_it_was(self) -> None:
        async with chatting(FakeSession(turns=TURNS)) as chat:
            await chat.press(*"half", "alt+up", "e", *" x", "escape")
            await chat.until(lambda: chat.prompt.text == "half")
            assert texts(chat) == [turn.text for turn in TURNS]
            assert "Ask it differently" not in chat.shown()

    async def test_a_text_that_begins_with_a_slash_is_no_command(self) -> None:
        async with chatting(
            FakeSession(["Yes."], turns=[Turn("user", "/etc is what?", "base"), answer("A folder")])
        ) as chat:
            await chat.press("alt+up", "e", "enter")
            await chat.rests()
            assert texts(chat) == ["/etc is what?", "Yes."]


class TestWhatElse:
    async def test_copy_puts_the_text_on_the_clipboard(self) -> None:
        async with chatting(FakeSession(turns=TURNS)) as chat:
            await chat.press("alt+up", "c")
            await told(chat, "Copied: Arr, the moon.")
            assert chat.app.clipboard == "Arr, the moon."

    async def test_code_is_copied_block_by_block(self) -> None:
        text = "One:\n```python\nprint(1)\n```\ntwo:\n```\nprint(2)\n```\n"
        async with chatting(FakeSession(turns=[Turn("user", "code", "base"), answer(text)])) as chat:
            await chat.press("alt+up", "y")
            await told(chat, "Copied block 1 of 2: print(1)")
            assert chat.app.clipboard == "print(1)"
            await chat.press("y")
            await told(chat, "Copied block 2 of 2: print(2)")
            assert chat.app.clipboard == "print(2)"

    async def test_where_there_is_no_code_it_says_so(self) -> None:
        async with chatting(FakeSession(turns=TURNS)) as chat:
            await chat.press("alt+up", "y")
            await told(chat, "There is no block of code in it; C copies its text.")

    async def test_fork_goes_on_in_a_conversation_of_its_own(self, store: ConversationStore) -> None:
        async with chatting(FakeSession(["Fine."], store=store)) as chat:
            for text in ("one", "two"):
                await chat.say(text)
            before = chat.session.conversation_id
            await chat.press("alt+up", "up", "up", "f")
            await chat.until(lambda: chat.session.conversation_id != before)
            assert texts(chat) == ["one", "Fine."]
            assert len(store.turns(before)) == 4

    async def test_delete_takes_the_turn_and_all_below_and_undo_brings_them_back(self) -> None:
        async with chatting(FakeSession(turns=TURNS)) as chat:
            await chat.press("alt+up", "up", "delete")
            await told(chat, "2 turns deleted")
            assert texts(chat) == [turn.text for turn in TURNS[:2]]
            assert marked(chat) == "The sea goes up and down."
            await chat.press("ctrl+z")
            await chat.sees("Arr, the moon.")
            assert texts(chat) == [turn.text for turn in TURNS]
            await chat.press("ctrl+y")
            await chat.until(lambda: len(texts(chat)) == 2)

    async def test_the_first_turn_can_go_too(self) -> None:
        async with chatting(FakeSession(turns=TURNS[:2])) as chat:
            await chat.press("alt+up", "up", "delete")
            await chat.until(lambda: not texts(chat) and chat.prompt.has_focus)

    async def test_undo_in_the_prompt_is_the_prompts_own_while_it_has_something_to_undo(self) -> None:
        async with chatting(FakeSession(["Fine."])) as chat:
            await chat.say("one")
            await chat.press("a", "ctrl+z")
            assert chat.prompt.text == ""
            assert texts(chat) == ["one", "Fine."]
            await chat.press("ctrl+z")
            await chat.until(lambda: not texts(chat))
            await chat.press("ctrl+z")
            await told(chat, "there is nothing to undo in this conversation")
            await chat.press("ctrl+y")
            await chat.sees("Fine.")

    async def test_pin_lets_the_mix_of_the_turn_answer_from_here_on(self) -> None:
        async with chatting(FakeSession(turns=TURNS)) as chat:
            await chat.press("alt+up", "p")
            await told(chat, "pirate answers in this branch")
            assert chat.session.pin == "pirate"
            await chat.press("p")
            await chat.until(lambda: chat.session.pin is None)

    async def test_pin_holds_for_every_branch_below_the_turn_under_the_cursor(self) -> None:
        async with chatting(FakeSession(["Aye."], turns=TURNS)) as chat:
            await chat.press("alt+up", "p")  # the last answer, pirate's
            await told(chat, "from turn 4 on")
            await chat.press("up", "up", "p")  # the first answer, the base's
            await told(chat, "base answers in this branch from turn 2 on")
            assert chat.session.pin == "base"
            turns = chat.session.turns
            assert [chat.session.pin_at(turn) for turn in turns] == [None, "base", "base", "base"]
            await chat.say("/edit 3 Who else makes it?")
            assert chat.session.asked[-1] == ("base", "Who else makes it?")
            await chat.press("alt+up", "up", "up", "p")
            await chat.until(lambda: chat.session.pin is None)

    async def test_go_on_goes_on_with_an_answer_that_was_cut_off(self) -> None:
        cut = replace(answer("The half"), finish_reason="length")
        async with chatting(FakeSession([" is done."], turns=[Turn("user", "go", "base"), cut])) as chat:
            await chat.press("alt+up", "g")
            await chat.rests()
            await chat.sees("The half is done.")

    async def test_an_answer_that_came_to_its_end_cannot_go_on(self) -> None:
        async with chatting(FakeSession(turns=TURNS)) as chat:
            await chat.press("alt+up", "g")
            await told(chat, "Only a last answer that was cut off can go on.")

    async def test_while_an_answer_is_written_the_tree_is_left_alone(self) -> None:
        waits = asyncio.Event()
        async with chatting(FakeSession(["So ", waits, "far."], turns=TURNS)) as chat:
            await chat.send("more")
            await chat.sees("So")
            await chat.press("alt+up", "up", "up", "delete")
            await told(chat, "An answer is being written; Esc stops it.")
            waits.set()
            await chat.rests()
            assert len(texts(chat)) == 6
