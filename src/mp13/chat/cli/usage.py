"""Runs a Typer command from the arguments of this process. What it says of a wrong call is drawn as all else is."""

import io
import sys
from typing import Any, NoReturn

import typer

from mp13.chat.cli.outcome import USAGE, complain, prepare_streams
from mp13.chat.text import utf8

_UsageError: Any = typer.BadParameter.__mro__[1]  # click's, or that of Typer's own copy of click


def run_command(app: typer.Typer, program: str) -> NoReturn:
    prepare_streams()
    try:
        code = app(args=[utf8(argument) for argument in sys.argv[1:]], prog_name=program, standalone_mode=False)
    except _UsageError as error:  # it quotes what was typed
        said = io.StringIO()
        error.show(file=said)
        complain(said.getvalue().rstrip("\n"))
        code = USAGE
    sys.exit(code)
