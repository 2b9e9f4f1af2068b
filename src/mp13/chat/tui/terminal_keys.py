"""Esc and Alt keys as a terminal without the Kitty protocol (tmux, xterm, PuTTY) sends them: Escape alone, or Escape
and the key's character.

Textual takes Escape and a digit for a character of a Mac keyboard ("£" for Alt+3), and Alt+Enter for Enter. Which keys
the chat has is not decided here.
"""

import os
from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Any, cast

from textual import constants
from textual._ansi_sequences import ANSI_SEQUENCES_KEYS

_ESC_S = 0.05  # what has not come this long after Escape belongs to no Alt key
_ALT = {**{f"\x1b{digit}": f"alt+{digit}" for digit in range(10)}, "\x1b\r": "alt+enter"}


@dataclass(frozen=True)
class _Key:
    """Stands for a member of Textual's own enum of keys, which has no Alt keys."""

    value: str


def set_up_keys() -> None:
    """From now on Textual reads these sequences as Alt keys, and takes Escape for Esc sooner.

    It looks every 0.1 s whether ESCDELAY milliseconds have passed. That is 100 where the user has not set it, so that
    the first look often comes just too early, and Esc takes two.
    """
    sequences = cast(MutableMapping[str, Any], ANSI_SEQUENCES_KEYS)
    sequences.update({sequence: (_Key(name),) for sequence, name in _ALT.items()})
    if "ESCDELAY" not in os.environ:
        cast(Any, constants).ESCAPE_DELAY = _ESC_S
