"""How far a long command is, on stderr: one line that is rewritten on a terminal, else a line a stage."""

import sys

from mp13.chat.cli.outcome import complain
from mp13.chat.text import printable


class Progress:
    """Call it with a stage and the share done; `clear` it, or use it as a context manager, and the line is gone."""

    def __init__(self, program: str, quiet: bool = False, rewrites: bool = True) -> None:
        self._program = program
        self._rewrites = rewrites and sys.stderr.isatty()
        self._quiet = quiet  # a line a stage is left out; what a person watches is not
        self._stage = ""

    def __call__(self, stage: str, fraction: float | None) -> None:
        if self._rewrites:
            percent = "" if fraction is None else f" {fraction:.0%}"
            sys.stderr.write(f"\r\x1b[K{printable(stage)}{percent}")
            sys.stderr.flush()
        elif stage != self._stage and not self._quiet:
            complain(f"{self._program}: {stage}")
        self._stage = stage

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *error: object) -> None:
        self.clear()

    def clear(self) -> None:
        if self._stage and self._rewrites:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
        self._stage = ""
