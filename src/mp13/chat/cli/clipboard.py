"""The clipboard of the terminal, wherever that is: by an escape sequence (OSC 52). Without a terminal there is none."""

import base64
import sys

from mp13.errors import ConfigError


def to_clipboard(text: str) -> None:
    """Raises ConfigError where no terminal is there to take it."""
    if not sys.stdout.isatty():
        raise ConfigError("there is no terminal here whose clipboard could take a copy")
    coded = base64.b64encode(text.encode()).decode()
    sys.stdout.write(f"\x1b]52;c;{coded}\a")
    sys.stdout.flush()
