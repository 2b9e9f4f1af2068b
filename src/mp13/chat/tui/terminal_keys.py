"""Alt keys as a terminal without the Kitty protocol (tmux, xterm, PuTTY) sends them: Escape and the key's character.

Textual takes Escape and a digit for a character of a Mac keyboard ("£" for Alt+3), and Alt+Enter for Enter. Which keys
the chat has is not decided here.
"""

from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Any, cast

from textual._ansi_sequences import ANSI_SEQUENCES_KEYS

_ALT = {**{f"\x1b{digit}": f"alt+{digit}" for digit in range(10)}, "\x1b\r": "alt+enter"}


@dataclass(frozen=True)
class _Key:
    """Stands for a member of Textual's own enum of keys, which has no Alt keys."""

    value: str


def read_alt_keys() -> None:
    """From now on Textual reads these sequences as Alt keys."""
    sequences = cast(MutableMapping[str, Any], ANSI_SEQUENCES_KEYS)
    sequences.update({sequence: (_Key(name),) for sequence, name in _ALT.items()})
