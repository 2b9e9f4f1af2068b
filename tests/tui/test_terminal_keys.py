"""What a terminal without the Kitty protocol sends for an Alt key is that key, not a character of a Mac keyboard."""

import pytest
from textual import constants, events
from textual._xterm_parser import XTermParser

from mp13.chat.tui.terminal_keys import set_up_keys


@pytest.mark.parametrize("sent, key", [("\x1b3", "alt+3"), ("\x1b0", "alt+0"), ("\x1b\r", "alt+enter")])
def test_escape_and_a_character_are_an_alt_key_that_types_nothing(sent: str, key: str) -> None:
    set_up_keys()
    [event] = XTermParser().feed(sent)
    assert isinstance(event, events.Key)
    assert (event.key, event.character) == (key, None)


@pytest.mark.parametrize("given, delay_s", [(None, 0.05), ("100", 0.1)])
def test_escape_alone_is_esc_before_the_next_look_unless_the_user_waits_longer(
    given: str | None, delay_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "ESCAPE_DELAY", 0.1)
    monkeypatch.delenv("ESCDELAY", raising=False)
    if given:
        monkeypatch.setenv("ESCDELAY", given)
    set_up_keys()
    assert delay_s == constants.ESCAPE_DELAY
