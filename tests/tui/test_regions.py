"""Three regions: where they stand, how they fold, and how the focus moves among them."""

import asyncio

import pytest

from mp13.chat.tui.widgets.regions import Regions
from tests.fakes.fake_session import FakeSession
from tests.tui.conftest import Chat, chatting


def seen(chat: Chat) -> list[str]:
    """The panels on the screen, from the left."""
    panels = [panel for panel in chat.conversation.query_one(Regions).panels if panel.is_attached and panel.display]
    return [str(panel.id) for panel in panels]


def focus(chat: Chat) -> str:
    """The region that has the focus."""
    focused = chat.app.focused
    assert focused is not None
    return next((str(node.id) for node in focused.ancestors_with_self if node.id in ("conversations", "adapters")), "")


class TestRoom:
    @pytest.mark.parametrize(
        ("width", "panels"),
        [(40, []), (80, []), (99, []), (100, ["adapters"]), (119, ["adapters"]), (120, ["conversations", "adapters"]),
         (200, ["conversations", "adapters"])],
    )  # fmt: skip
    async def test_panels_stand_beside_the_conversation_where_there_is_room(
        self, width: int, panels: list[str]
    ) -> None:
        async with chatting(FakeSession(), size=(width, 36)) as chat:
            assert seen(chat) == panels
            assert chat.prompt.region.width >= 36

    async def test_they_come_and_go_as_the_terminal_is_resized(self) -> None:
        async with chatting(FakeSession(), size=(80, 24)) as chat:
            for width, panels in ((120, ["conversations", "adapters"]), (80, []), (100, ["adapters"])):
                await chat.pilot.resize_terminal(width, 24)
                await chat.until(lambda panels=panels: seen(chat) == panels)
            await chat.sees("next prompt")

    async def test_what_is_read_is_no_wider_than_can_be_read(self) -> None:
        async with chatting(FakeSession(["word " * 200]), size=(300, 40)) as chat:
            await chat.say("go")
            await chat.until(lambda: chat.transcript.rows)
            assert all(row.region.width <= 104 for row in chat.transcript.rows)


class TestToggling:
    async def test_a_key_goes_to_a_panel_and_folds_it_away_from_there(self) -> None:
        async with chatting(FakeSession(), size=(120, 36)) as chat:
            await chat.press("f4")
            await chat.until(lambda: focus(chat) == "adapters")
            await chat.press("f4")
            await chat.until(lambda: seen(chat) == ["conversations"])
            assert chat.prompt.has_focus
            await chat.press("ctrl+b", "f3")
            await chat.until(lambda: seen(chat) == [])

    async def test_what_was_chosen_holds_when_the_terminal_was_narrow_meanwhile(self) -> None:
        async with chatting(FakeSession(), size=(120, 36)) as chat:
            await chat.press("f3", "f3")
            await chat.until(lambda: seen(chat) == ["adapters"])
            for width in (80, 200):
                await chat.pilot.resize_terminal(width, 36)
            await chat.until(lambda: seen(chat) == ["adapters"])

    async def test_a_panel_that_has_no_room_of_its_own_can_be_asked_for(self) -> None:
        async with chatting(FakeSession(), size=(100, 30)) as chat:
            await chat.press("f3")
            await chat.until(lambda: seen(chat) == ["conversations", "adapters"])

    async def test_on_a_narrow_screen_a_panel_lies_over_the_conversation_until_esc(self) -> None:
        async with chatting(FakeSession(), size=(80, 24)) as chat:
            before = chat.prompt.region
            await chat.press("f4")
            await chat.sees("the model alone")
            assert chat.prompt.region == before
            await chat.press("escape")
            await chat.until(lambda: seen(chat) == [])
            assert chat.prompt.has_focus

    async def test_one_panel_over_the_conversation_takes_the_place_of_the_other(self) -> None:
        async with chatting(FakeSession(), size=(80, 24)) as chat:
            await chat.press("f4")
            await chat.until(lambda: seen(chat) == ["adapters"])
            await chat.press("f3")
            await chat.until(lambda: seen(chat) == ["conversations"])
            assert focus(chat) == "conversations"

    async def test_a_click_beside_it_closes_a_panel_over_the_conversation(self) -> None:
        async with chatting(FakeSession(), size=(80, 24)) as chat:
            await chat.press("f4")
            await chat.until(lambda: seen(chat) == ["adapters"])
            await chat.pilot.click(chat.prompt, offset=(3, 1))
            await chat.until(lambda: seen(chat) == [])

    async def test_the_key_line_can_be_clicked(self) -> None:
        async with chatting(FakeSession(), size=(80, 24)) as chat:
            line = chat.shown().splitlines()[-1]
            await chat.pilot.click(offset=(line.index("Adapters"), 23))
            await chat.until(lambda: seen(chat) == ["adapters"])

    async def test_a_panel_can_be_opened_before_the_session_is(self) -> None:
        async with chatting(FakeSession(), size=(80, 24), ready=False) as chat:
            await chat.press("f3")
            await chat.until(lambda: seen(chat) == ["conversations"])
            await chat.rests()


class TestFocus:
    async def test_tab_and_shift_tab_go_round_the_regions(self) -> None:
        async with chatting(FakeSession(), size=(120, 36)) as chat:
            for key, region in (
                ("tab", "adapters"), ("tab", "conversations"), ("tab", ""), ("shift+tab", "conversations"),
                ("shift+tab", "adapters"), ("shift+tab", ""),
            ):  # fmt: skip
                await chat.press(key)
                await chat.until(lambda region=region: focus(chat) == region)

    async def test_tab_still_completes_where_there_is_something_to_complete(self) -> None:
        async with chatting(FakeSession(), size=(120, 36)) as chat:
            await chat.press(*"/ada", "tab")
            assert chat.prompt.text == "/adapter "
            assert chat.prompt.has_focus

    @pytest.mark.parametrize("key", ["f3", "f4"])
    async def test_esc_goes_back_to_the_prompt_and_stops_no_answer(self, key: str) -> None:
        async with chatting(FakeSession(["begun", asyncio.Event()]), size=(120, 36)) as chat:
            await chat.send("go")
            await chat.sees("begun")
            await chat.press(key, "escape")
            await chat.until(lambda: chat.prompt.has_focus)
            assert "stopped" not in chat.shown()
            await chat.press("escape")
            await chat.sees("stopped")

    async def test_what_is_typed_where_nothing_takes_it_goes_to_the_prompt(self) -> None:
        async with chatting(FakeSession(), size=(120, 36)) as chat:
            await chat.press("f4", "h", "i")
            await chat.until(lambda: chat.prompt.text == "hi")
            assert chat.prompt.has_focus

    async def test_what_is_pasted_there_too(self) -> None:
        from textual.events import Paste

        async with chatting(FakeSession(), size=(120, 36)) as chat:
            await chat.press("f4")
            chat.app.post_message(Paste("two\nlines"))
            await chat.until(lambda: chat.prompt.text == "two\nlines")

    async def test_the_region_with_the_focus_is_seen_without_colour(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("NO_COLOR", "1")
        async with chatting(FakeSession(), size=(120, 36)) as chat:
            before = chat.picture()
            await chat.press("f4")
            await chat.until(lambda: focus(chat) == "adapters")
            assert chat.picture() != before
