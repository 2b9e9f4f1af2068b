"""`mp13 history`: the stored conversations. What is done to them is conversation/store.py's and history/'s."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from mp13.chat.cli.outcome import USAGE, complain, outcome
from mp13.chat.conversation.prompt_history import clear_history, history_file
from mp13.chat.conversation.store import ConversationInfo, ConversationStore, WholeConversation
from mp13.chat.conversation.store_forget import Forgotten
from mp13.chat.conversation.store_search import Found
from mp13.chat.history.export import export as export_to
from mp13.chat.history.export import format_of, markdown, numbers, samples, text_of
from mp13.chat.history.importing import import_file
from mp13.chat.history.repair import repair as repair_file
from mp13.chat.library.shown import age, table, when
from mp13.chat.text import one_line, printable
from mp13.errors import ConfigError
from mp13.library.data.problem import DataError
from mp13.library.paths import data_dir

PROGRAM = "mp13 history"
NONE = "no conversation is stored"
app = typer.Typer(no_args_is_help=True, help="Conversations on this machine: find, read, export, import, forget.")
_AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_Id = Annotated[str, typer.Argument(metavar="ID", help="The beginning of an id, as `list` shows it, or `latest`.")]
_SHOWN = 8  # characters of an id
_PROMPTS = {
    "none": "",
    "removed": "; so are the prompts that Up brings back",
    "kept": "\nUp and Ctrl+R still bring back the prompts that were typed; `mp13 history forget --all` ends them.",
}
_MARKS = str.maketrans("\x02\x03\n", "[] ")


@app.command("list")
def list_(
    limit: Annotated[int, typer.Option("-n", min=1, metavar="N", help="How many.")] = 20,
    archived: Annotated[bool, typer.Option("--archived", help="Those that were put away.")] = False,
    deleted: Annotated[bool, typer.Option("--deleted", help="Those that were deleted and not yet forgotten.")] = False,
    as_json: _AsJson = False,
) -> None:
    """List the conversations, the one used last first."""
    with _store("list") as store:
        infos = store.conversations(limit, archived=archived, deleted=deleted)
        if as_json:
            print(json.dumps([_info_json(info) for info in infos], indent=2))
            return
        rows = [
            {
                "ID": one_line(info.id)[:_SHOWN],
                "TURNS": str(info.turns),
                "AGE": age(info.updated_at),
                "TITLE": one_line(info.title)[:60],
            }
            for info in infos
        ]
        print(table(rows) if rows else NONE)


@app.command()
def search(
    text: Annotated[list[str], typer.Argument(metavar="TEXT…", help="Words that a turn has, or that begin so.")],
    limit: Annotated[int, typer.Option("-n", min=1, metavar="N", help="How many.")] = 20,
    as_json: _AsJson = False,
) -> None:
    """Find turns in all conversations, the best first. Quotes and signs are text like any other."""
    with _store("search") as store:
        wanted = " ".join(text)
        found = store.search(wanted, limit)
        if as_json:
            print(json.dumps([_found_json(one) for one in found], indent=2))
            return
        for one in found:
            print(_found_line(one))
        if not found:
            print(printable(f"nothing contains {wanted!r}"))


@app.command()
def show(id: _Id, as_json: _AsJson = False) -> None:
    """Print a conversation: its path as Markdown, or the whole tree as JSON."""
    with _store("show") as store:
        one = store.whole(store.find(id))
        print(text_of([one], "json", ascii=True) if as_json else printable(markdown(one)), end="")


@app.command()
def export(
    id: Annotated[str | None, typer.Argument(metavar="ID", help="As `list` shows it, or `latest`.")] = None,
    out: Annotated[Path | None, typer.Argument(metavar="[FILE]", help="Where to; else stdout.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Every conversation, archived ones too.")] = False,
    format: Annotated[str | None, typer.Option(help="md, json or jsonl; else FILE's, else md.")] = None,
    turns: Annotated[
        str | None, typer.Option(metavar="2,4-6", help="For jsonl: the turns whose answers are to be learned.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace FILE if it is there.")] = False,
    as_json: _AsJson = False,
) -> None:
    """Write conversations for reading (md), for keeping with all their branches (json), or for training (jsonl)."""
    with _store("export") as store:
        if every and id is not None and out is None:
            out, id = Path(id), None  # the one word is the file's name
        if every == (id is not None):
            raise ConfigError("name one conversation, or give --all")
        ids = store.known_ids() if every else [store.find(id or "")]
        if not ids:
            raise ConfigError(f"{NONE}; there is nothing to export")
        wanted, chosen = format_of(format, out), None if turns is None else numbers(turns)
        conversations = [store.whole(one) for one in ids]
        conversations = [one for one in conversations if one.turns]
        if out is None:
            _print(conversations, wanted, chosen)
            return
        told = export_to(conversations, out, wanted, chosen, replace=force)
        facts = {"out": str(out), "format": wanted, "conversations": len(conversations)}
        print(json.dumps(facts, indent=2) if as_json else printable(told))


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Of `export`, OpenAI's messages, or ShareGPT.")],
    copies: Annotated[bool, typer.Option("--copy", help="Store what is here already once more.")] = False,
    as_json: _AsJson = False,
) -> None:
    """Store the conversations of a file: all of them, or none if anything is wrong with it."""
    with _store("import") as store:
        try:
            imported = import_file(file, store, copies=copies)
        except DataError as error:
            for problem in error.problems:
                complain(str(problem))
            raise SystemExit(USAGE) from None
        print(json.dumps(asdict(imported), indent=2) if as_json else printable(str(imported)))


@app.command()
def forget(
    id: Annotated[str | None, typer.Argument(metavar="ID", help="The beginning of an id, deleted ones too.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Every conversation.")] = False,
    before: Annotated[
        datetime | None,
        typer.Option(metavar="DATE", formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M"], help="Those not used since then."),
    ] = None,
    as_json: _AsJson = False,
) -> None:
    """Remove conversations for good: their bytes are in no file of the data folder afterwards.

    With --all the prompts that Up and Ctrl+R bring back go too. One conversation's cannot be told from the others'.
    """
    with _store("forget") as store:
        if (id is not None) + every + (before is not None) != 1:
            raise ConfigError("say what to forget: an ID, --all, or --before DATE")
        if before is not None:
            ids = store.ids_before(before.timestamp())
        else:
            ids = store.known_ids(with_deleted=True) if every else [_one_id(store, id or "")]
        forgotten = store.forget(ids)
        prompts = _clear_prompts() if every else _prompts_left()
        if as_json:
            print(json.dumps(_forgotten_json(forgotten, ids) | {"prompt_history": prompts}, indent=2))
        else:
            print(_forgotten_text(forgotten) + _PROMPTS[prompts])


@app.command()
def repair(as_json: _AsJson = False) -> None:
    """Look whether the conversations file is whole; if not, recover what can be read and keep the broken file."""
    with outcome(f"{PROGRAM} repair"):
        repaired = repair_file(data_dir() / "conversations.db")
        facts = asdict(repaired) | {"aside": repaired.aside and str(repaired.aside)}
        print(json.dumps(facts, indent=2) if as_json else printable(str(repaired)))


@contextmanager
def _store(verb: str) -> Iterator[ConversationStore]:
    with outcome(f"{PROGRAM} {verb}"), ConversationStore() as store:
        yield store


def _one_id(store: ConversationStore, beginning: str) -> str:
    found = store.known_ids(beginning, with_deleted=True) if beginning else []
    if len(found) != 1:
        what = f"{len(found)} conversations begin" if found else "no conversation begins"
        raise ConfigError(f"{what} with {beginning!r}; `mp13 history list` shows them, with --deleted the deleted ones")
    return found[0]


def _clear_prompts() -> str:
    return "removed" if clear_history(history_file()) else "none"


def _prompts_left() -> str:
    return "kept" if history_file().exists() else "none"


def _print(conversations: list[WholeConversation], format: str, chosen: frozenset[int] | None) -> None:
    """On a terminal nothing in a conversation may act on it; elsewhere it is as it is."""
    if format == "jsonl":
        for sample in samples(conversations, chosen):
            print(json.dumps(sample.row(), ensure_ascii=sys.stdout.isatty()))
    elif format == "json":
        print(text_of(conversations, "json", ascii=True), end="")
    else:
        text = text_of(conversations, "md")
        print(printable(text) if sys.stdout.isatty() else text, end="")


def _info_json(info: ConversationInfo) -> dict[str, Any]:
    return asdict(info) | {"updated_at": when(info.updated_at)}


def _found_json(found: Found) -> dict[str, Any]:
    return asdict(found) | {"snippet": found.snippet.translate(_MARKS)}


def _found_line(found: Found) -> str:
    snippet = one_line(found.snippet.translate(_MARKS))
    return f"{one_line(found.conversation_id)[:_SHOWN]}  {one_line(found.title)[:24]!r}  {snippet}"


def _forgotten_json(forgotten: Forgotten, ids: list[str]) -> dict[str, Any]:
    return {
        "forgotten": ids,
        "cleaned_copies": [str(path) for path in forgotten.copies],
        "removed_copies": [str(path) for path in forgotten.removed],
    }


def _forgotten_text(forgotten: Forgotten) -> str:
    count = forgotten.conversations
    text = f"{count:,} {'conversation is' if count == 1 else 'conversations are'} forgotten"
    if forgotten.copies:
        text += f", in {len(forgotten.copies)} older copies of the file, too"
    for path in forgotten.removed:
        text += f"; {path} could not be read and is removed"
    return printable(text)
