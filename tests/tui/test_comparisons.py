"""Several mixes answer on one screen, one is kept, an answer is taken apart, and what is odd of an adapter is seen."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from syrupy.assertion import SnapshotAssertion

from mp13.chat.conversation.diff import Diff, DiffToken
from mp13.chat.conversation.remarks import Remark
from mp13.chat.tui.screens import frame
from mp13.chat.tui.widgets.turns import Answer, Badge
from mp13.errors import ContextError
from tests.fakes.fake_session import FakeSession
from tests.tui.conftest import Chat, chatting

DIFF = Diff(
    "pirate",
    "base",
    (
        DiffToken("Arr", 1, -0.1, -9.4, "Arr", "The", True, 8.2),
        DiffToken(", the", 2, -0.4, -0.9, ", the", ", the", False, 0.3),
        DiffToken(" sea [/]", 3, -0.2, -2.0, " sea", " moon", True, 1.4),
        DiffToken(" is deep.", 4, -0.2, -0.2, " is", " is", False, 0.01),
    ),
)


def badges(chat: Chat) -> list[str]:
    return [str(badge.content) for badge in chat.transcript.query(Badge)]


class TestComparing:
    async def test_answers_grow_side_by_side_under_their_own_badges(self, picture: SnapshotAssertion) -> None:
        gate = asyncio.Event()
        async with chatting(FakeSession(["The sea", " is deep."], ["Arr", gate, ", 'tis deep!"])) as chat:
            await chat.send("/compare base pirate What is the sea?")
            await chat.sees("What is the sea?", "The sea", "Arr", "base · …", "pirate · …")
            gate.set()
            await chat.rests()
            await chat.sees("The sea is deep.", "Arr, 'tis deep!")
            assert badges(chat) == [
                "● base · 38 tok/s · 120 cached",
                "● pirate · 38 tok/s · 120 cached",
            ]
            assert "/compare" not in chat.shown(chat.transcript)
            assert await chat.still() == picture

    async def test_the_last_prompt_is_answered_again(self) -> None:
        async with chatting(FakeSession(["first"], ["again"])) as chat:
            await chat.say("What is the sea?")
            await chat.say("/compare base pirate")
            await chat.until(lambda: chat.shown().count("What is the sea?") == 1 and chat.shown().count("again") == 2)

    async def test_keeping_one_leaves_it_alone(self) -> None:
        async with chatting(FakeSession(["of base"], ["of pirate"])) as chat:
            await chat.say("/compare base pirate hi there")
            await chat.say("/keep pirate")
            await chat.sees("goes on with the answer of pirate", "of pirate")
            assert "of base" not in chat.shown()

    async def test_stopping_keeps_what_came_of_each(self) -> None:
        async with chatting(FakeSession(["one", "more"], ["half", asyncio.Event()])) as chat:
            await chat.send("/compare base pirate hi there")
            await chat.sees("half")
            await chat.press("escape")
            await chat.rests()
            await chat.sees("one", "half")
            assert [badge.split(" · ")[-1] for badge in badges(chat)] == ["stopped", "stopped"]
            assert all(row.is_settled for row in chat.transcript.rows)

    async def test_an_error_leaves_what_came_and_says_why_under_it(self) -> None:
        async with chatting(FakeSession(["part", ContextError("the context is full")], ["other"])) as chat:
            await chat.send("/compare base pirate hi there")
            await chat.rests()
            await chat.sees("part", "other", "the context is full")
            assert [row.mix for row in chat.transcript.query(Answer)] == ["base", "pirate"]

    async def test_they_stand_side_by_side_where_there_is_room_else_under_each_other(self) -> None:
        async with chatting(FakeSession(["The sea."], ["Arr."], ["{}"]), size=(96, 24)) as chat:
            await chat.say("/compare base pirate json What is the sea?")
            await chat.until(lambda: any("The sea." in line and "Arr." in line for line in chat.shown().split("\n")))
            await chat.pilot.resize_terminal(70, 24)
            await chat.sees("The sea.", "Arr.")
            assert not any("The sea." in line and "Arr." in line for line in chat.shown().split("\n"))

    @pytest.mark.parametrize(("key", "kept", "gone"), [("1", "of base", "of pirate"), ("2", "of pirate", "of base")])
    async def test_a_digit_keeps_one_and_the_other_stays_beside_it(self, key: str, kept: str, gone: str) -> None:
        async with chatting(FakeSession(["of base"], ["of pirate"])) as chat:
            await chat.say("/compare base pirate hi there")
            await chat.press(key)
            await chat.until(lambda: gone not in chat.shown() and kept in chat.shown())
            assert [turn.text for turn in chat.session.answers] == ["of base", "of pirate"]
            assert (chat.session.turns[-1].text, chat.prompt.has_focus, chat.prompt.text) == (kept, True, "")

    async def test_one_can_be_kept_while_they_are_written(self) -> None:
        gate = asyncio.Event()
        async with chatting(FakeSession(["of base"], ["of", gate, " pirate"])) as chat:
            await chat.send("/compare base pirate hi there")
            await chat.sees("of base", "of")
            await chat.press("2")
            gate.set()
            await chat.until(lambda: "of base" not in chat.shown() and "of pirate" in chat.shown())

    async def test_a_click_on_its_head_keeps_one(self) -> None:
        async with chatting(FakeSession(["of base"], ["of pirate"])) as chat:
            await chat.say("/compare base pirate hi there")
            await chat.pilot.click(chat.conversation.query(".column-head").last())
            await chat.until(lambda: "of base" not in chat.shown())

    async def test_what_else_is_typed_goes_to_the_prompt_and_escape_goes_there(self) -> None:
        async with chatting(FakeSession(["of base"], ["of pirate"])) as chat:
            await chat.say("/compare base pirate hi there")
            await chat.press("3", "e")
            assert chat.prompt.text == "3e"  # which on a turn would edit it
            await chat.say("/compare base pirate")
            await chat.press("escape")
            assert chat.prompt.has_focus

    async def test_a_misspelt_mix_asks_nothing(self) -> None:
        async with chatting(FakeSession()) as chat:
            await chat.say("/compare base pirat hi")
            await chat.sees("'pirat' is no mix of adapters here; did you mean 'pirate'?")


@asynccontextmanager
async def taken_apart() -> AsyncIterator[Chat]:
    session = FakeSession(["Arr, the sea [/] is deep."], mix="pirate")
    session.next_diff = DIFF
    async with chatting(session) as chat:
        await chat.say("hi")
        await chat.say("/diff")
        await chat.sees("tokens turned")
        yield chat


class TestDiff:
    async def test_a_diff_is_a_heat_map_of_the_answer(self, picture: SnapshotAssertion) -> None:
        session = FakeSession(["Arr, the sea [/] is deep."], mix="pirate")
        session.next_diff = DIFF
        async with chatting(session) as chat:
            await chat.say("hi")
            await chat.say("/diff")
            await chat.sees("mean KL 2.48 nats", "50% of 4 tokens turned")
            assert chat.shown().count("Arr, the sea [/] is deep.") == 1  # in place of the answer
            assert await chat.still() == picture

    async def test_a_cursor_tells_what_the_other_would_have_said(self) -> None:
        async with taken_apart() as chat:
            for key, token, said in (
                ("up", '"Arr"  token 1 of 4 · KL 8.20', 'would have said "The"'),
                ("right", '", the"  token 2 of 4 · KL 0.30', "would have said the same"),
                ("down", '" sea [/]"  token 3 of 4 · KL 1.40', 'would have said " moon"'),
                ("down", "token 3 of 4", 'would have said " moon"'),
                ("right", "token 4 of 4", "81.9%  log-prob  -0.20"),
                ("right", "token 4 of 4", "would have said the same"),
                ("up", "token 3 of 4", "13.5%  log-prob  -2.00"),
                ("left", "token 2 of 4", "40.7%  log-prob  -0.90"),
            ):
                await chat.press(key)
                await chat.sees(token, said)

    async def test_a_click_moves_the_cursor(self) -> None:
        async with taken_apart() as chat:
            lines = chat.shown().splitlines()
            y = next(y for y, line in enumerate(lines) if "is deep." in line)
            await chat.pilot.click(offset=(lines[y].index("is deep"), y))
            await chat.sees("token 4 of 4")

    async def test_the_answer_comes_back_when_it_is_left(self) -> None:
        async with taken_apart() as chat:
            await chat.press("escape")
            await chat.until(lambda: "tokens turned" not in chat.shown() and "pirate · 38 tok/s" in chat.shown())
            assert chat.prompt.has_focus

    async def test_what_is_typed_goes_to_the_prompt(self) -> None:
        async with taken_apart() as chat:
            await chat.press("e", "i")
            assert chat.prompt.text == "ei"

    async def test_another_one_takes_its_place(self) -> None:
        async with taken_apart() as chat:
            await chat.say("/diff json")
            await chat.until(lambda: chat.shown().count("tokens turned") == 1)

    async def test_without_colours_marks_say_what_was_turned(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("NO_COLOR", "1")
        session = FakeSession(["Arr, the sea"], mix="pirate")
        session.next_diff = DIFF
        async with chatting(session) as chat:
            await chat.say("hi")
            await chat.say("/diff")
            await chat.sees("[Arr|The], the[ sea [/]| moon] is deep.")


class TestRemarks:
    async def test_what_turns_out_about_an_adapter_appears_by_itself(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(frame, "LOOK_S", 0.05)
        session = FakeSession(mix="pirate")
        async with chatting(session, size=(100, 24)) as chat:
            assert chat.status.startswith("● pirate · smollm2")
            session.remarks = [Remark("pirate", "a long sentence"), Remark("pirate", "it does nothing", "no effect")]
            await chat.until(lambda: chat.status.startswith("● pirate · pirate: no effect · smollm2"))
            session.remarks = []
            await chat.until(lambda: chat.status.startswith("● pirate · smollm2"))


class TestTheLibrary:
    async def test_its_verbs_work_on_the_screen(self, tmp_path: Path) -> None:
        async with chatting(FakeSession()) as chat:
            await chat.say("/adapters remove nobody")
            await chat.sees("there is no adapter 'nobody'")
            await chat.say("/adapters shwo")
            await chat.sees("'shwo' is none of")


@pytest.mark.parametrize("size", [(80, 24), (120, 36), (200, 60)], ids=["80x24", "120x36", "200x60"])
class TestPictures:
    async def test_comparison(self, size: tuple[int, int], picture: SnapshotAssertion) -> None:
        async with chatting(FakeSession(["The sea is deep."], ["Arr, 'tis deep!"], ['{"sea": 1}']), size=size) as chat:
            await chat.say("/compare base pirate json What is the sea?")
            assert await chat.still() == picture

    async def test_heat_map(self, size: tuple[int, int], picture: SnapshotAssertion) -> None:
        session = FakeSession(["Arr, the sea [/] is deep."], mix="pirate")
        session.next_diff = DIFF
        async with chatting(session, size=size) as chat:
            await chat.say("hi")
            await chat.say("/diff")
            await chat.press("right")
            assert await chat.still() == picture
