"""`mp13 train runs`: lists training runs, shows one, compares some."""

import json
from typing import Annotated

import typer

from mp13.chat.cli.data_cli import AsJson
from mp13.chat.cli.outcome import outcome
from mp13.chat.cli.train_cli import PROGRAM
from mp13.chat.cli.train_cli import app as app
from mp13.chat.library.runs_view import compared, run_json, runs_table
from mp13.chat.settings.load import load_settings
from mp13.chat.text import one_line
from mp13.library.runs import find_runs, list_runs


@app.command("runs")
def runs_(
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME…", help="Runs to compare, or folders.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the training runs, or show what sets some of them apart."""
    with outcome(f"{PROGRAM} runs"):
        folders = load_settings().adapter_folders
        found = find_runs(names, folders) if names else list_runs(folders)
        if as_json:
            print(json.dumps([run_json(run) for run in found], indent=2))
        elif not found:
            print(one_line(f"no run yet in {' or '.join(map(str, folders))}; `{PROGRAM}` begins one"))
        else:
            print(compared(find_runs(names, folders)) if names else runs_table(found))
