"""Keys: one table behind bindings, help, key line and remapping."""

import importlib
import pkgutil
from collections.abc import Iterator

import pytest
from textual.app import App
from textual.binding import Binding
from textual.widget import Widget

import mp13.chat.tui
from mp13.chat.settings.keys import KEY_ACTIONS
from mp13.chat.settings.load import change_settings
from mp13.chat.tui.screens.help import HelpScreen
from mp13.chat.tui.screens.picker import AdapterPicker
from tests.fakes.fake_session import FakeSession
from tests.tui.conftest import Chat, chatting


def bound() -> Iterator[tuple[type, Binding]]:
    """Every binding that a class of ours declares."""
    for module in pkgutil.walk_packages(mp13.chat.tui.__path__, "mp13.chat.tui."):
        for found in vars(importlib.import_module(module.name)).values():
            is_ours = isinstance(found, type) and found.__module__ == module.name and issubclass(found, Widget | App)
            for binding in found.__dict__.get("BINDINGS", ()) if is_ours else ():
                assert isinstance(binding, Binding)
                yield found, binding


def test_every_binding_is_one_of_the_table_and_has_its_action() -> None:
    for owner, binding in bound():
        assert binding.id in KEY_ACTIONS, f"{owner.__name__}: {binding}"
        assert binding.key == KEY_ACTIONS[binding.id].keys
        target = App if binding.action.startswith("app.") else owner
        assert hasattr(target, f"action_{binding.action.removeprefix('app.').partition('(')[0]}"), binding


def test_everything_in_the_table_is_bound() -> None:
    assert {binding.id for _, binding in bound()} == set(KEY_ACTIONS)


def with_keys(**keys: str) -> FakeSession:
    session = FakeSession()
    session.settings = change_settings(
        session.settings, {"keys": {id.replace("__", "."): k for id, k in keys.items()}}, "test"
    )
    return session


async def picks(chat: Chat, key: str) -> bool:
    await chat.press(key)
    await chat.pilot.pause(0.1)
    return isinstance(chat.app.screen, AdapterPicker)


class TestRemapping:
    async def test_a_key_does_what_it_was_given_and_the_old_one_nothing(self) -> None:
        async with chatting(with_keys(adapters__pick="f5")) as chat:
            assert not await picks(chat, "ctrl+o")
            assert await picks(chat, "f5")

    async def test_keys_of_the_prompt_can_be_others(self) -> None:
        session = with_keys(prompt__send="ctrl+s", prompt__newline="enter")
        async with chatting(session) as chat:
            await chat.press("a", "enter", "b", "ctrl+s")
            await chat.rests()
            assert session.asked == [("base", "a\nb")]

    async def test_keys_of_panels_can_be_others(self) -> None:
        async with chatting(with_keys(adapters__toggle="x", adapters__leave="f9"), size=(120, 36)) as chat:
            await chat.press("f4", "down", "x")
            await chat.until(lambda: chat.session.mix == "json")
            await chat.press("f9")
            await chat.until(lambda: chat.prompt.has_focus)

    async def test_help_welcome_titles_and_key_line_tell_the_new_keys(self) -> None:
        keys = {"adapters__panel": "f6", "adapters__pick": "f5", "chat__help": "f9"}
        async with chatting(with_keys(**keys), size=(120, 160)) as chat:
            await chat.sees("Adapters  F6", "F6 Adapters", "Choose one with F5", "F9 Help", "F9 help")
            await chat.press("f9")
            await chat.until(lambda: isinstance(chat.app.screen, HelpScreen))
            await chat.sees("F5", "choose or mix adapters by name")
            assert "F4" not in chat.shown()

    async def test_set_remaps_while_the_chat_runs_and_refuses_what_cannot_be(self) -> None:
        async with chatting(FakeSession()) as chat:
            await chat.say('/set keys={"adapters.pick": "f3"}')
            await chat.sees("'f3' for 'adapters.pick' cannot be used")
            await chat.say('/set keys={"adapters.pick": "f5"}')
            await chat.sees("keys = {'adapters.pick': 'f5'}")
            assert await picks(chat, "f5")
            await chat.press("escape")
            await chat.say("/set keys=none")
            await chat.sees("keys = {}")
            assert await picks(chat, "ctrl+o")


class TestKeyLine:
    @pytest.mark.parametrize(
        ("width", "last"), [(80, "Ctrl+Q Quit"), (64, "Ctrl+P Commands"), (30, "F3 Conversations")]
    )
    async def test_what_has_no_room_leaves_from_the_end(self, width: int, last: str) -> None:
        async with chatting(FakeSession(), size=(width, 24)) as chat:
            assert chat.shown().splitlines()[-1].endswith(last)

    async def test_it_shows_what_can_be_done_where_the_focus_is(self) -> None:
        async with chatting(FakeSession(), size=(120, 36)) as chat:
            await chat.press("f4")
            await chat.until(
                lambda: chat.shown().splitlines()[-1].startswith("  Enter Choose   Space In or out   Right Weight")
            )

    async def test_it_offers_to_stop_while_there_is_something_to_stop(self) -> None:
        import asyncio

        async with chatting(FakeSession(["begun", asyncio.Event()])) as chat:
            assert "Stop" not in chat.shown()
            await chat.send("go")
            await chat.sees("begun", "Esc Stop")


class TestHelp:
    async def test_it_lists_every_action_under_where_it_can_be_done(self) -> None:
        async with chatting(FakeSession(), size=(120, 160)) as chat:
            await chat.press("f1")
            await chat.until(lambda: isinstance(chat.app.screen, HelpScreen))
            text = " ".join(chat.shown().replace("│", "").split())
            assert all(action.help in text for action in KEY_ACTIONS.values() if action.told)
