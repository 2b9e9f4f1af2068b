"""`mp13 adapters`: list, show, add, remove, rename, tag, export. What needs a model is adapters_engine_cli.py's."""

import asyncio
import json
import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer

from mp13.chat.cli.outcome import complain, outcome
from mp13.chat.cli.progress import Progress
from mp13.chat.library.shelf import Shelved, loaded_now, look
from mp13.chat.library.shown import adapter_json, adapter_lines, adapter_table, added, removed, tagged
from mp13.chat.settings.load import load_settings
from mp13.chat.text import one_line
from mp13.errors import ConfigError
from mp13.library.adapters import AdapterOnDisk, find_adapter, list_adapters
from mp13.library.changes import add_adapter, export_adapter, remove_adapter, rename_adapter, tag_adapter
from mp13.library.hub import is_path

PROGRAM = "mp13 adapters"
app = typer.Typer(no_args_is_help=True, help="The adapters on this machine.")
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Name = Annotated[str, typer.Argument(help="A name that `mp13 adapters list` shows.")]


@app.command("list")
def list_(
    tag: Annotated[str | None, typer.Option(help="Only adapters that have this tag.")] = None, as_json: AsJson = False
) -> None:
    """List the adapters. For each, where it is now, what it is, and why it cannot be used."""
    with outcome(PROGRAM):
        settings = load_settings()
        with Progress(PROGRAM, quiet=True) as progress:
            adapters = list_adapters(settings.adapter_folders)
            shelf = look(settings, adapters, asyncio.run(loaded_now()), progress)
        shelf = [one for one in shelf if tag is None or tag in one.adapter.notes.tags]
        if as_json:
            print(json.dumps([adapter_json(one) for one in shelf], indent=2))
        elif shelf:
            print(adapter_table(shelf, shutil.get_terminal_size().columns if sys.stdout.isatty() else None))
        elif tag is not None:
            print(one_line(f"no adapter has the tag {tag!r}; `mp13 adapters tag` gives one"))
        else:
            places = " or ".join(map(str, settings.adapter_folders))
            print(one_line(f"no adapter yet in {places}; `mp13 adapters add` takes a folder or a Hub id"))


@app.command()
def show(name: Name, as_json: AsJson = False) -> None:
    """Show all that is known of an adapter."""
    with outcome(PROGRAM):
        one = _shelved(name)
        print(json.dumps(adapter_json(one), indent=2) if as_json else adapter_lines(one))


@app.command()
def add(
    what: Annotated[
        str, typer.Argument(metavar="PATH|HUB-ID", help="A PEFT folder, or org/name[/folder][@revision] of the Hub.")
    ],
    name: Annotated[
        str | None, typer.Option(help="What to call it; the folder's or repository's name if left out.")
    ] = None,
    tag: Annotated[list[str] | None, typer.Option(help="A tag for it; repeatable.")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Take the place of the adapter of that name.")] = False,
    as_json: AsJson = False,
) -> None:
    """Add an adapter from a folder or the Hub. Only safetensors are taken, and a Hub's commit is pinned."""
    with outcome(PROGRAM):
        with Progress(PROGRAM) as progress:
            adapter = add_adapter(what, name, tags=tag or (), replace_it=replace, progress=progress)
        _tell_of(adapter, added(adapter), as_json)
        if adapter.unfit is not None:
            complain(f"{PROGRAM}: {adapter.name} cannot be used as it is: {one_line(adapter.unfit)}")


@app.command()
def remove(name: Name, as_json: AsJson = False) -> None:
    """Delete an adapter from the library."""
    with outcome(PROGRAM):
        adapter = remove_adapter(name, load_settings().adapter_folders)
        _tell_of(adapter, removed(adapter), as_json)


@app.command()
def rename(name: Name, new: Annotated[str, typer.Argument(help="Its new name.")], as_json: AsJson = False) -> None:
    """Give an adapter another name."""
    with outcome(PROGRAM):
        adapter = rename_adapter(name, new, load_settings().adapter_folders)
        _tell_of(adapter, f"{name} is called {new} now", as_json)


@app.command()
def tag(
    name: Name,
    tags: Annotated[list[str] | None, typer.Argument(help="Its tags from now on; none takes all away.")] = None,
    as_json: AsJson = False,
) -> None:
    """Set the tags of an adapter. They replace those it has."""
    with outcome(PROGRAM):
        adapter = tag_adapter(name, tags or (), load_settings().adapter_folders)
        _tell_of(adapter, tagged(adapter), as_json)


@app.command()
def export(
    name: Name,
    target: Annotated[Path, typer.Argument(metavar="FOLDER", help="The folder to make, or one to put it into.")],
    as_json: AsJson = False,
) -> None:
    """Copy an adapter to a folder for PEFT."""
    with outcome(PROGRAM):
        made = export_adapter(name, target, load_settings().adapter_folders)
        print(json.dumps({"name": name, "path": str(made)}, indent=2) if as_json else one_line(f"{name} is in {made}"))


def _shelved(name: str) -> Shelved:
    settings = load_settings()
    if is_path(name):
        raise ConfigError(f"{name!r} is a path; give the name of an adapter, or check it: {PROGRAM} check {name}")
    with Progress(PROGRAM, quiet=True) as progress:
        adapter = find_adapter(name, settings.adapter_folders)
        (one,) = look(settings, [adapter], asyncio.run(loaded_now()), progress)
    return one


def _tell_of(adapter: AdapterOnDisk, sentence: str, as_json: bool) -> None:
    if as_json:
        (one,) = look(load_settings(), [adapter], ())
        print(json.dumps(adapter_json(one), indent=2))
    else:
        print(one_line(sentence))
