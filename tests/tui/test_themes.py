"""Themes: each of them legible, tried on and kept or given up, from the first frame on."""

import pytest
from textual.color import Color
from textual.theme import BUILTIN_THEMES, Theme

from mp13.chat.settings.load import change_settings
from mp13.chat.settings.themes import DARK, LIGHT, THEMES
from mp13.chat.tui.app import ChatApp
from mp13.chat.tui.palette import voice_variables
from mp13.chat.tui.screens.themes import ThemePicker
from mp13.chat.tui.themes import OWN_THEMES
from tests.fakes.fake_session import FakeSession
from tests.tui.conftest import chatting

KNOWN: dict[str, Theme] = {**BUILTIN_THEMES, **{theme.name: theme for theme in OWN_THEMES}}
LEGIBLE = 3.0  # the contrast that WCAG asks of large and of bold text


def test_the_settings_name_every_theme_there_is() -> None:
    assert set(THEMES) == set(KNOWN)


@pytest.mark.parametrize("name", [name for name in THEMES if not KNOWN[name].ansi])
def test_every_voice_is_legible_on_every_ground(name: str) -> None:
    colours = KNOWN[name].to_color_system().generate()
    for voice, colour in voice_variables(KNOWN[name].dark).items():
        contrast = _contrast(colour, colours["background"])
        assert contrast >= LEGIBLE, f"{voice} on {name}: {contrast:.2f}"


def _contrast(one: str, other: str) -> float:
    low, high = sorted((_luminance(Color.parse(one)), _luminance(Color.parse(other))))
    return (high + 0.05) / (low + 0.05)


def _luminance(colour: Color) -> float:
    """As WCAG 2 defines it."""
    parts = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in colour.normalized]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), parts, strict=True))


class TestPicking:
    async def test_what_is_marked_is_tried_on_and_enter_keeps_it(self) -> None:
        async with chatting(FakeSession()) as chat:
            await chat.press("ctrl+t", "down")
            await chat.until(lambda: chat.app.theme == LIGHT)
            await chat.press("enter")
            await chat.until(lambda: not isinstance(chat.app.screen, ThemePicker))
            assert chat.app.theme == LIGHT
            await chat.sees("mp13config set theme mp13-light")

    async def test_esc_brings_back_the_one_before(self) -> None:
        async with chatting(FakeSession()) as chat:
            await chat.press("ctrl+t", "down", "down")
            await chat.until(lambda: chat.app.theme not in (DARK, LIGHT))
            await chat.press("escape")
            await chat.until(lambda: not isinstance(chat.app.screen, ThemePicker))
            assert chat.app.theme == DARK

    async def test_every_theme_can_be_worn(self) -> None:
        async with chatting(FakeSession(mix="json"), size=(120, 36)) as chat:
            for name in THEMES:
                await chat.say(f"/set theme={name}")
                await chat.until(lambda name=name: chat.app.theme == name)


class TestSetting:
    async def test_it_is_worn_from_the_start(self) -> None:
        session = FakeSession()
        session.settings = change_settings(session.settings, {"theme": "nord"}, "test")
        async with chatting(session) as chat:
            assert chat.app.theme == "nord"

    async def test_an_unknown_one_is_refused_and_nothing_changes(self) -> None:
        async with chatting(FakeSession()) as chat:
            await chat.say("/set theme=mp13-lihgt")
            await chat.sees("did you mean 'mp13-light'?")
            assert chat.app.theme == DARK

    async def test_what_was_picked_by_hand_outlives_other_commands(self) -> None:
        async with chatting(FakeSession()) as chat:
            await chat.press("ctrl+t", "down", "enter")
            await chat.say("/set temperature=0")
            assert chat.app.theme == LIGHT

    async def test_the_first_frame_has_the_theme_that_it_was_started_with(self) -> None:
        themes: list[str] = []

        async def open_session() -> FakeSession:
            themes.append(app.theme)
            return FakeSession()

        app = ChatApp(open_session, "nord")
        async with app.run_test() as pilot:
            while not themes:
                await pilot.pause(0.01)
        assert themes == ["nord"]
