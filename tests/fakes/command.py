"""Runs a command's `main` in this process, as the shell would: arguments, standard input, exit code, output."""

import io
import sys
from collections.abc import Callable
from typing import NamedTuple

import pytest


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


class Terminal(io.StringIO):
    """Standard input, or output, at which somebody sits."""

    def isatty(self) -> bool:
        return True


class Command:
    """Calls of one test."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    def run(self, main: Callable[[], None], *arguments: str, stdin: io.StringIO) -> Outcome:
        """A defect's exception goes through to the test; what is printed must be no traceback."""
        self._monkeypatch.setattr(sys, "argv", ["command", *arguments])
        self._monkeypatch.setattr(sys, "stdin", stdin)
        with pytest.raises(SystemExit) as ended:
            main()
        captured = self._capsys.readouterr()
        assert "Traceback" not in captured.err
        return Outcome(int(ended.value.code or 0), captured.out, captured.err)
