"""`/adapters`: the verbs of `mp13 adapters` in a chat, on the same functions. Which adapter answers is `/adapter`'s."""

import argparse
import asyncio
import re
import shlex
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from mp13.chat.conversation.turn import CommandResult
from mp13.chat.library.checking import check_in_engine, check_on_disk
from mp13.chat.library.merging import merge_request, merge_text
from mp13.chat.library.shelf import Shelved, look
from mp13.chat.library.shown import adapter_lines, adapter_table, added, removed, tagged
from mp13.errors import ConfigError
from mp13.library.adapters import AdapterOnDisk, find_adapter, list_adapters
from mp13.library.changes import add_adapter, export_adapter, remove_adapter, rename_adapter, tag_adapter
from mp13.library.merging import METHODS, merge
from mp13.mix import parse_mix

if TYPE_CHECKING:
    from mp13.chat.conversation.session import ChatSession

Verb = Callable[["ChatSession", argparse.Namespace], Awaitable[str]]


async def adapters_command(session: "ChatSession", argument: str) -> CommandResult:
    """Do what `/adapters ARGUMENT` says; alone, list.

    Raises:
        ConfigError: it says nothing that can be done. Else what the library raises.
    """
    try:
        words = shlex.split(argument)
    except ValueError as error:
        raise ConfigError(f"/adapters {argument} cannot be read ({error}); close the quotation mark") from None
    given = _parser().parse_args(words or ["list"])
    verb: Verb = given.verb
    return CommandResult(await verb(session, given))


async def _list(session: "ChatSession", given: argparse.Namespace) -> str:
    shelf = await _shelf(session, list_adapters(session.settings.adapter_folders))
    return adapter_table(shelf, width=0) if shelf else "no adapter yet; /adapters add takes a folder or a Hub id"


async def _show(session: "ChatSession", given: argparse.Namespace) -> str:
    (one,) = await _shelf(session, [find_adapter(given.name, session.settings.adapter_folders)])
    return adapter_lines(one)


async def _add(session: "ChatSession", given: argparse.Namespace) -> str:
    add = partial(add_adapter, given.what, given.name, tags=given.tag, replace_it=given.replace)
    adapter = await _in_thread(add)
    unfit = f"; it cannot be used as it is: {adapter.unfit}" if adapter.unfit else ""
    return added(adapter) + unfit


async def _remove(session: "ChatSession", given: argparse.Namespace) -> str:
    _check_silent(session, given.name)
    return removed(remove_adapter(given.name, session.settings.adapter_folders))


async def _rename(session: "ChatSession", given: argparse.Namespace) -> str:
    _check_silent(session, given.name)
    rename_adapter(given.name, given.new, session.settings.adapter_folders)
    return f"{given.name} is called {given.new} now"


async def _tag(session: "ChatSession", given: argparse.Namespace) -> str:
    return tagged(tag_adapter(given.name, given.tags, session.settings.adapter_folders))


async def _check(session: "ChatSession", given: argparse.Namespace) -> str:
    adapter = find_adapter(given.name, session.settings.adapter_folders)
    if session.engine is None or given.static:
        return check_on_disk(adapter).text
    return (await check_in_engine(adapter, session.client, session.engine.model)).text


async def _merge(session: "ChatSession", given: argparse.Namespace) -> str:
    request = merge_request(
        session.settings, given.mix, given.name, given.model, method=given.method, rank=given.rank,
        density=given.density, seed=given.seed,
    )  # fmt: skip
    report = await _in_thread(partial(merge, request), "on_progress")
    return "\n".join([merge_text(report), *report.warnings])


async def _export(session: "ChatSession", given: argparse.Namespace) -> str:
    made = await asyncio.to_thread(export_adapter, given.name, given.folder, session.settings.adapter_folders)
    return f"{given.name} is in {made}"


async def _shelf(session: "ChatSession", adapters: list[AdapterOnDisk]) -> list[Shelved]:
    return await asyncio.to_thread(look, session.settings, adapters, session.adapters, lambda stage, fraction: None)


def _check_silent(session: "ChatSession", name: str) -> None:
    if name in parse_mix(session.mix).names:
        raise ConfigError(f"{name!r} answers in this chat; choose another mix first, such as /adapter base")


async def _in_thread(work: Callable[..., Any], progress: str = "progress") -> Any:
    """`work`, which ends soon when this is cancelled: what it tells its progress to raises then."""
    cancelled = False

    def tell(stage: str, fraction: float | None) -> None:
        if cancelled:
            raise InterruptedError("nobody waits for it any more")

    try:
        return await asyncio.to_thread(partial(work, **{progress: tell}))
    finally:
        cancelled = True


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        message = message.replace("the following arguments are required:", "missing")
        message = re.sub(r"^argument VERB: invalid choice: (.*) \(choose from (.*)\)$", r"\1 is none of \2", message)
        usage = " ".join(self.format_usage().split()).removeprefix("usage: ")
        raise ConfigError(f"{self.prog}: {message}; write {usage}")


def _parser() -> _Parser:
    parser = _Parser("/adapters", add_help=False, allow_abbrev=False)
    verbs = parser.add_subparsers(dest="word", metavar="VERB", required=True, parser_class=_Parser)

    def verb(name: str, run: Verb, *arguments: str) -> argparse.ArgumentParser:
        made = verbs.add_parser(name, add_help=False, allow_abbrev=False)
        made.set_defaults(verb=run)
        for argument in arguments:
            made.add_argument(argument, metavar=argument.upper())
        return made

    verb("list", _list)
    verb("show", _show, "name")
    add = verb("add", _add)
    add.add_argument("what", metavar="PATH|HUB-ID")
    add.add_argument("--name")
    add.add_argument("--tag", action="append", default=[])
    add.add_argument("--replace", action="store_true")
    verb("remove", _remove, "name")
    verb("rename", _rename, "name", "new")
    verb("tag", _tag, "name").add_argument("tags", nargs="*", metavar="TAG")
    verb("check", _check, "name").add_argument("--static", action="store_true")
    made = verb("merge", _merge, "mix")
    made.add_argument("--name")
    made.add_argument("--model", type=Path)
    made.add_argument("--method", default=METHODS[0])
    made.add_argument("--rank", type=int)
    made.add_argument("--density", type=float)
    made.add_argument("--seed", type=int, default=0)
    verb("export", _export, "name").add_argument("folder", type=Path, metavar="FOLDER")
    return parser
