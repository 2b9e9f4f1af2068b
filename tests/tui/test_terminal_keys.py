"""What a terminal without the Kitty protocol sends for an Alt key is that key, not a character of a Mac keyboard."""

import pytest
from textual import events
from textual._xterm_parser import XTermParser

from mp13.chat.tui.terminal_keys import read_alt_keys


@pytest.mark.parametrize("sent, key", [("\x1b3", "alt+3"), ("\x1b0", "alt+0"), ("\x1b\r", "alt+enter")])
def test_escape_and_a_character_are_an_alt_key_that_types_nothing(sent: str, key: str) -> None:
    read_alt_keys()
    [event] = XTermParser().feed(sent)
    assert isinstance(event, events.Key)
    assert (event.key, event.character) == (key, None)
