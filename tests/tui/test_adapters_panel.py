"""The adapters panel: what it says of each adapter, and what its keys do to the mix."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from mp13.chat.conversation.turn import Turn
from mp13.chat.tui.outlook import WARM, WARMING, Watch
from mp13.chat.tui.widgets.adapters import AdapterList, AdaptersPanel
from mp13.library.adapters import AdapterOnDisk
from mp13.service.schema import AdapterInfo
from tests.fakes import fake_session
from tests.fakes.fake_session import FakeSession, answer
from tests.tui.conftest import Chat, chatting

WIDE = (120, 36)


def panel(chat: Chat) -> str:
    return chat.shown(chat.conversation.query_one(AdaptersPanel)).replace("▏", "")


def row(chat: Chat, name: str) -> str:
    """The two lines of an adapter in the list."""
    lines = chat.shown(chat.conversation.query_one(AdapterList)).splitlines()
    place = next(number for number, line in enumerate(lines) if name in line)
    return " ".join(" ".join(lines[place : place + 2]).split())


def put(session: FakeSession, *infos: AdapterInfo) -> None:
    """Let the engine have these."""
    session._connection.adapters = list(infos)


def info(name: str, **facts: object) -> AdapterInfo:
    return replace(AdapterInfo(name, "0" * 64, "lora", 16, (), 1), **facts)  # type: ignore[arg-type]


class TestRows:
    async def test_each_has_its_place_and_the_mix_its_weights(self) -> None:
        session = FakeSession(mix="json:0.25+pirate:-1.5")
        put(session, info("json", state="slot"), info("pirate", state="memory"))
        async with chatting(session, size=WIDE) as chat:
            await chat.until(lambda: "in a slot" in panel(chat))
            assert row(chat, "json") == "1 ● json ━━──── 0.25 in a slot"
            assert row(chat, "pirate") == "2 ● pirate ━━━━━━ -1.5 in memory"
            assert row(chat, "wide") == "3 × wide unfit"
            assert row(chat, "○ base") == "0 ○ base the model alone"
            assert "json:0.25+pirate:-1.5" in panel(chat)

    async def test_why_one_is_unfit_stands_under_the_list_when_it_is_marked(self) -> None:
        async with chatting(FakeSession(), size=WIDE) as chat:
            await chat.press("f4", "down", "down", "down")
            await chat.until(lambda: "its rank 128 is above" in panel(chat))

    async def test_the_effect_is_told_where_it_was_measured(self) -> None:
        session = FakeSession()
        put(session, info("json", effect=0.213), info("pirate", effect=0.0))
        async with chatting(session, size=WIDE) as chat:
            await chat.until(lambda: "effect 0.21" in row(chat, "json") and "effect none" in row(chat, "pirate"))
            await chat.press("f4", "down", "down")
            await chat.until(lambda: "changes nothing measurable" in " ".join(panel(chat).split()))

    async def test_what_changed_on_disk_is_told_with_what_to_do(self, monkeypatch: pytest.MonkeyPatch) -> None:
        changed = replace(fake_session.ADAPTERS[0], digest="1" * 64)
        monkeypatch.setattr("mp13.chat.library.shelf.with_digests", lambda adapters, *_: [changed, *adapters[1:]])
        session = FakeSession()
        put(session, info("json", state="slot"))
        async with chatting(session, size=WIDE) as chat:
            await chat.until(lambda: "changed on disk · in a" in row(chat, "json"))
            await chat.press("f4", "down")
            await chat.until(lambda: "/reload picks it up" in " ".join(panel(chat).split()))

    async def test_an_adapter_that_comes_while_the_chat_runs_is_listed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("mp13.chat.tui.screens.frame.LOOK_S", 0.05)
        async with chatting(FakeSession(), size=WIDE) as chat:
            await chat.until(lambda: "pirate" in panel(chat))
            new = AdapterOnDisk("zebra", Path("/data/adapters/zebra"), 8, "lora", 1, None)
            monkeypatch.setattr(fake_session, "ADAPTERS", (*fake_session.ADAPTERS, new))
            await chat.until(lambda: "zebra" in panel(chat))

    async def test_hostile_names_and_reasons_are_only_text(self, monkeypatch: pytest.MonkeyPatch) -> None:
        hostile = AdapterOnDisk("a[/]\x1b[31m", Path("/x"), 1, "lora", 1, "because [bold]\x9b2J of it")
        monkeypatch.setattr(fake_session, "ADAPTERS", (hostile,))
        async with chatting(FakeSession(), size=WIDE) as chat:
            await chat.press("f4", "down")
            await chat.until(lambda: "a[/]" in panel(chat) and "because [bold] of it" in panel(chat))
            assert all(character == "\n" or character.isprintable() for character in chat.shown())


class TestChoosing:
    async def test_enter_lets_one_answer_alone_and_says_so_only_in_the_panel(self) -> None:
        async with chatting(FakeSession(mix="json"), size=WIDE) as chat:
            await chat.until(lambda: "pirate" in panel(chat))
            await chat.press("f4", "down", "enter")
            await chat.until(lambda: chat.session.mix == "pirate")
            await chat.until(lambda: row(chat, "● pirate").startswith("2 ● pirate ━━━━━━ 1"))
            assert "answers from here on" not in chat.shown()
            assert isinstance(chat.app.focused, AdapterList)

    async def test_a_click_chooses_too(self) -> None:
        async with chatting(FakeSession(), size=WIDE) as chat:
            await chat.until(lambda: "pirate" in panel(chat))
            lines = panel(chat).splitlines()
            place = next(y for y, line in enumerate(lines) if "pirate" in line)
            await chat.pilot.click(AdaptersPanel, offset=(8, place))
            await chat.until(lambda: chat.session.mix == "pirate")

    async def test_space_puts_one_into_the_mix_and_takes_it_out(self) -> None:
        async with chatting(FakeSession(), size=WIDE) as chat:
            for keys, mix in (
                (("f4", "down", "space"), "json"), (("down", "space"), "json+pirate"), (("up", "space"), "pirate"),
                (("down", "space"), "base"),
            ):  # fmt: skip
                await chat.press(*keys)
                await chat.until(lambda mix=mix: chat.session.mix == mix)

    async def test_two_that_are_put_in_while_an_answer_runs_are_both_in_afterwards(self) -> None:
        gate = asyncio.Event()
        async with chatting(FakeSession(["begun", gate]), size=WIDE) as chat:
            await chat.send("go")
            await chat.sees("begun")
            await chat.press("f4", "down", "space", "down", "space")
            await chat.until(lambda: "after this answer" in panel(chat))
            assert row(chat, "● json")
            assert row(chat, "● pirate")
            assert chat.session.mix == "base"
            gate.set()
            await chat.until(lambda: chat.session.mix == "json+pirate")
            await chat.until(lambda: "next prompt" in panel(chat))

    async def test_what_was_chosen_and_answers_now_waits_for_nothing(self) -> None:
        first, second = asyncio.Event(), asyncio.Event()
        async with chatting(FakeSession(["one", first], ["two", second]), size=WIDE) as chat:
            await chat.send("go")
            await chat.sees("one")
            await chat.press("f4", "down", "enter")
            await chat.until(lambda: "after this answer" in panel(chat))
            await chat.send("go on")
            first.set()
            await chat.sees("two")
            assert chat.session.mix == "json"
            await chat.until(lambda: "next prompt" in panel(chat))
            second.set()

    async def test_a_choice_that_waits_can_be_taken_back(self) -> None:
        gate = asyncio.Event()
        async with chatting(FakeSession(["begun", gate]), size=WIDE) as chat:
            await chat.send("go")
            await chat.sees("begun")
            await chat.press("f4", "down", "enter")
            await chat.until(lambda: "after this answer" in panel(chat))
            await chat.press("escape", "escape")
            await chat.sees("stopped")
            await chat.until(lambda: chat.session.mix == "json")  # it was the answer that was stopped

    async def test_the_weights_of_the_others_stay(self) -> None:
        async with chatting(FakeSession(mix="json:0.5"), size=WIDE) as chat:
            await chat.until(lambda: "pirate" in panel(chat))
            await chat.press("f4", "down", "space")
            await chat.until(lambda: chat.session.mix == "json:0.5+pirate")

    async def test_what_is_unfit_is_refused_with_its_reason_and_nothing_changes(self) -> None:
        async with chatting(FakeSession(mix="json"), size=WIDE) as chat:
            await chat.until(lambda: "pirate" in panel(chat))
            await chat.press("f4", "down", "down", "enter")
            await chat.sees("wide cannot be used: its rank 128")
            assert chat.session.mix == "json"
            await chat.until(lambda: row(chat, "● json"))

    async def test_what_goes_wrong_leaves_the_panel_as_it_was(self, monkeypatch: pytest.MonkeyPatch) -> None:
        async def refused(text: str) -> str:
            from mp13.errors import AdapterError

            raise AdapterError("its file is damaged")

        session = FakeSession(mix="json")
        monkeypatch.setattr(session, "set_mix", refused)
        async with chatting(session, size=WIDE) as chat:
            await chat.until(lambda: "pirate" in panel(chat))
            await chat.press("f4", "down", "enter")
            await chat.sees("its file is damaged")
            await chat.until(lambda: row(chat, "● json") and row(chat, "○ pirate"))

    async def test_a_pin_is_told_and_cannot_be_overruled(self) -> None:
        async with chatting(FakeSession(), size=WIDE) as chat:
            await chat.say("/pin pirate")
            await chat.until(lambda: "pinned to branch" in panel(chat))


class TestSwitching:
    @pytest.mark.parametrize(("key", "mix"), [("alt+1", "json"), ("alt+2", "pirate"), ("alt+0", "base")])
    async def test_alt_and_a_digit_lets_one_answer_wherever_the_focus_is(self, key: str, mix: str) -> None:
        async with chatting(FakeSession(mix="json:0.5+pirate")) as chat:
            await chat.press("h", key, "i")
            await chat.until(lambda: chat.session.mix == mix)
            await chat.until(lambda: f"● {mix} ·" in chat.status)
            assert chat.prompt.text == "hi"

    async def test_the_panel_marks_what_was_chosen_elsewhere(self) -> None:
        async with chatting(FakeSession(), size=WIDE) as chat:
            await chat.until(lambda: "wide" in panel(chat))
            await chat.press("alt+2")
            await chat.until(lambda: "● pirate ·" in chat.status)
            await chat.press("f4", "left")
            await chat.until(lambda: chat.session.mix == "pirate:0.9")

    @pytest.mark.parametrize("size", [(80, 24), WIDE])
    async def test_the_mark_begins_on_the_mix_in_force_when_a_conversation_is_gone_on_with(
        self, size: tuple[int, int]
    ) -> None:
        turns = (Turn("user", "hi", "pirate"), answer("Arr.", "pirate"))
        async with chatting(FakeSession(turns=turns, mix="pirate"), size) as chat:
            await chat.press("f4")
            rows = chat.conversation.query_one(AdapterList)
            await chat.until(lambda: rows.marked == "pirate")
            await chat.press("left")
            await chat.until(lambda: chat.session.mix == "pirate:0.9")

    async def test_what_is_unfit_or_not_there_is_refused(self) -> None:
        async with chatting(FakeSession(mix="json"), size=WIDE) as chat:
            await chat.until(lambda: "wide" in panel(chat))
            await chat.press("alt+3")
            await chat.sees("wide cannot be used: its rank 128")
            await chat.press("alt+4")
            await chat.sees("There is no adapter 4; the list has 3.")
            assert chat.session.mix == "json"


class TestWeights:
    @pytest.mark.parametrize(
        ("keys", "mix"),
        [
            (["right"], "json:0.6"),
            (["plus", "plus", "left"], "json:0.6"),
            (["minus"], "json:0.4"),
            (["shift+right"], "json:0.55"),
            (["shift+left", "shift+left", "left", "left", "left", "left", "left"], "json:-0.1"),
            (["0", "full_stop", "7", "5", "enter"], "json:0.75"),
            (["1", "2", "backspace", "enter"], "json"),
            (["9", "9", "9", "enter"], "json:10"),
            (["down", "right"], "json:0.5+pirate:0.1"),
        ],
    )
    async def test_they_move_by_keys(self, keys: list[str], mix: str) -> None:
        async with chatting(FakeSession(mix="json:0.5"), size=WIDE) as chat:
            await chat.until(lambda: "pirate" in panel(chat))
            await chat.press("f4", *keys)
            await chat.until(lambda: chat.session.mix == mix)
            assert chat.prompt.text == ""

    async def test_steps_in_a_row_are_one_change(self) -> None:
        session = FakeSession(mix="json:0.5")
        mixes: list[str] = []
        set_mix = session.set_mix

        async def noted(text: str) -> str:
            mixes.append(text)
            return await set_mix(text)

        session.set_mix = noted  # type: ignore[method-assign]
        async with chatting(session, size=WIDE) as chat:
            await chat.until(lambda: "pirate" in panel(chat))
            await chat.press("f4", *["right"] * 4)
            await chat.until(lambda: row(chat, "json").startswith("1 ● json ━━━━━─ 0.9"))
            await chat.until(lambda: session.mix == "json:0.9")
            assert mixes == ["json:0.9"]

    async def test_a_number_that_is_typed_is_seen_and_escape_takes_it_back(self) -> None:
        async with chatting(FakeSession(mix="json:0.5"), size=WIDE) as chat:
            await chat.until(lambda: "pirate" in panel(chat))
            await chat.press("f4", "2")
            await chat.until(lambda: row(chat, "json").startswith("1 ● json 2"))
            await chat.press("escape")
            await chat.until(lambda: "0.5" in row(chat, "json"))
            assert (chat.session.mix, isinstance(chat.app.focused, AdapterList)) == ("json:0.5", True)

    async def test_the_base_has_none(self) -> None:
        async with chatting(FakeSession(mix="json"), size=WIDE) as chat:
            await chat.until(lambda: "pirate" in panel(chat))
            await chat.press("f4", "up", "right")
            await chat.sees("The base has no weight")
            assert chat.session.mix == "json"


class TestPin:
    async def test_a_key_pins_the_mix_and_frees_it_and_both_are_seen(self) -> None:
        async with chatting(FakeSession(mix="json:0.5+pirate"), size=WIDE) as chat:
            await chat.press("f4", "p")
            await chat.until(lambda: chat.session.pin == "json:0.5+pirate")
            await chat.until(lambda: "pinned to branch" in panel(chat) and "· pinned" in chat.status)
            await chat.press("p")
            await chat.until(lambda: chat.session.pin is None and "pinned" not in panel(chat) + chat.status)


class TestWarmth:
    async def test_warming_and_warm_are_told_in_panel_and_status(self) -> None:
        session = FakeSession()
        async with chatting(session, size=WIDE) as chat:
            await chat.say("go")
            await chat.say("/adapter pirate")
            for warming, told in (("pirate", WARMING), (None, WARM)):
                session._asking.warming, session._asking.warmed = warming, None if warming else "pirate"
                session._changed()
                await chat.until(lambda told=told: f"next prompt · {told}" in panel(chat))
                assert f"● pirate · {told}" in chat.status
            await chat.say("go on")
            assert WARM not in chat.status

    async def test_nothing_is_warm_in_an_engine_that_is_gone(self) -> None:
        session = FakeSession(mix="pirate")
        async with chatting(session, size=WIDE) as chat:
            session._asking.warmed = "pirate"
            for warming in ("pirate", None):
                session._asking.warming = warming
                session._changed()
            await chat.until(lambda: f"next prompt · {WARM}" in panel(chat))
            session._connection._forget()
            session._changed()
            await chat.until(lambda: WARM not in panel(chat) and WARM not in chat.status)

    def test_only_what_came_to_its_end_is_warm(self) -> None:
        session, watch = FakeSession(mix="a"), Watch()

        def told(warming: str | None, warmed: str | None = None) -> str:
            session._asking.warming, session._asking.warmed = warming, warmed
            return watch.look(session).warmth

        assert told(None) == ""
        assert told("a") == WARMING
        session.mix = "b"  # another is chosen before a is done
        assert told("b") == WARMING
        session.mix = "a"
        assert told("a") == WARMING
        assert told(None) == ""  # it failed, or gave way to something else
        assert told("a") == WARMING
        assert told("b", warmed="a") == WARM  # the next in line is computed
        watch.moved()
        assert told("b") == ""
        watch.answered("a")
        assert told("a") == ""
