"""`mp13 adapters check` and `merge`: the verbs that ask a model. Both run it in a process of its own."""

import asyncio
import json
from pathlib import Path
from typing import Annotated

import typer

from mp13.chat.cli.adapters_cli import PROGRAM, AsJson
from mp13.chat.cli.adapters_cli import app as app
from mp13.chat.cli.outcome import FAILURE, complain, outcome
from mp13.chat.cli.progress import Progress
from mp13.chat.cli.running_engine import running_engine
from mp13.chat.library.checking import CheckReport, check_in_engine, check_on_disk
from mp13.chat.library.merging import merge_json, merge_request, merge_text
from mp13.chat.settings.load import load_settings
from mp13.chat.settings.model import STARTER_NAMES
from mp13.chat.settings.schema import Settings
from mp13.chat.text import one_line
from mp13.errors import AdapterError
from mp13.library.adapter_folder import is_adapter, look_at
from mp13.library.adapters import AdapterOnDisk, find_adapter
from mp13.library.hub import is_path
from mp13.library.merging import METHODS, merge
from mp13.library.paths import given_path
from mp13.library.starter import install_starter

Model = Annotated[
    str | None, typer.Option(help="The base: `starter`, a folder, a GGUF file, or a Hub id; else the settings'.")
]


@app.command()
def check(
    name: Annotated[str, typer.Argument(metavar="NAME|PATH", help="An adapter of the list, or a PEFT folder.")],
    model: Model = None,
    static: Annotated[bool, typer.Option("--static", help="Look at the files only; load nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Try an adapter on the model. Says whether it fits, what to mind, and what it changes."""
    with outcome(PROGRAM):
        settings = load_settings({} if model is None else {"model": model})
        adapter = _named_or_at(name, settings)
        with Progress(PROGRAM) as progress:
            idle = static or adapter.unfit is not None  # then no model has to be loaded to say so
            report = check_on_disk(adapter) if idle else asyncio.run(_checked(adapter, settings, progress))
        print(json.dumps(report.json, indent=2) if as_json else report.text)
        if report.problem is not None:
            raise typer.Exit(FAILURE)


@app.command("merge")
def merge_(
    mix: Annotated[str, typer.Argument(metavar="MIX", help="What to merge: NAME, or A:0.7+B:-0.3.")],
    name: Annotated[str | None, typer.Option(help="Make one adapter of it, of this name.")] = None,
    model: Annotated[Path | None, typer.Option(metavar="OUT", help="Make a model of it and the base, in OUT.")] = None,
    base: Model = None,
    method: Annotated[str, typer.Option(help=f"For --name: {', '.join(METHODS)}.")] = METHODS[0],
    rank: Annotated[int | None, typer.Option(help="Of the new adapter, with an svd method.")] = None,
    density: Annotated[float | None, typer.Option(help="The share that ties, dare and magnitude_prune keep.")] = None,
    seed: Annotated[int, typer.Option(help="For dare's random choice.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Make an adapter or a model of a mix. At the end it is compared with the live mix."""
    with outcome(PROGRAM):
        settings = load_settings({} if base is None else {"model": base})
        request = merge_request(settings, mix, name, model, method=method, rank=rank, density=density, seed=seed)
        with Progress(PROGRAM) as progress:
            if settings.model in STARTER_NAMES:
                install_starter(progress)
            report = merge(request, progress)
        for warning in report.warnings:
            complain(f"{PROGRAM}: {one_line(warning)}")
        print(json.dumps(merge_json(report), indent=2) if as_json else merge_text(report))


def _named_or_at(text: str, settings: Settings) -> AdapterOnDisk:
    """An adapter of the list, or else the one in the folder `text`."""
    folder = given_path(text)
    if not is_path(text):
        try:
            return find_adapter(text, settings.adapter_folders)
        except AdapterError:
            if not folder.is_dir():
                raise
    if not folder.is_dir() or not is_adapter(folder):
        raise AdapterError(f"{text!r} is no folder of a PEFT adapter; give one, or a name of `{PROGRAM} list`")
    return look_at(folder.resolve())


async def _checked(adapter: AdapterOnDisk, settings: Settings, progress: Progress) -> CheckReport:
    async with running_engine(settings, progress) as connection:
        progress("checking", None)
        return await check_in_engine(adapter, connection.client, settings.engine_config().model)
