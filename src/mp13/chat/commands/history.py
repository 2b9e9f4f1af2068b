"""/export and /import: what `mp13 history` does with files, for the conversation on the screen, kept or not."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from mp13.chat.commands.command import Command
from mp13.chat.conversation.store import WholeConversation
from mp13.chat.conversation.turn import CommandResult
from mp13.errors import ConfigError

if TYPE_CHECKING:
    from mp13.chat.conversation.session import ChatSession

_FORCE = "--force"


async def _export(session: "ChatSession", argument: str) -> CommandResult:
    from mp13.chat.history.export import FORMATS, export, format_of

    words = _words("/export", argument)
    force = _FORCE in words
    rest = [word for word in words if word != _FORCE]
    format = rest.pop(0) if rest and rest[0] in FORMATS else None
    if len(rest) > 1:
        raise ConfigError(
            f"/export writes one file, but {' '.join(rest)!r} was given; put a name with spaces in quotes"
        )
    whole = _whole(session)
    if not whole.turns:
        raise ConfigError("there is nothing to export yet; say something first")
    named = Path(rest[0]) if rest else None
    wanted = format_of(format, named)
    out = named or Path(f"mp13-{whole.id[:8]}.{wanted}")
    return CommandResult(export([whole], out, wanted, replace=force))


async def _import(session: "ChatSession", argument: str) -> CommandResult:
    from mp13.chat.history.importing import import_file

    words = _words("/import", argument)
    if len(words) != 1:
        raise ConfigError("/import needs one file: JSON of /export, OpenAI's messages, or ShareGPT")
    imported = import_file(Path(words[0]), session.needed_store)
    more = f"; /resume {imported.ids[0][:8]} goes on with it" if len(imported.ids) == 1 else ""
    return CommandResult(f"{imported}{more}")


def _words(command: str, argument: str) -> list[str]:
    try:
        return shlex.split(argument)
    except ValueError as error:
        raise ConfigError(f"{command} {argument} cannot be read ({error}); close the quotation mark") from None


def _whole(session: "ChatSession") -> WholeConversation:
    """As it is stored; of one that is not kept, what is here."""
    is_stored = session.store is not None and session.not_kept is None and session.turns
    tree = session.tree
    return session.store.whole(tree.id) if session.store is not None and is_stored else tree.whole()


def _formats(session: "ChatSession") -> list[str]:
    return ["md", "json", "jsonl"]


HISTORY_COMMANDS = (
    Command("/export", "[md|json|jsonl] [FILE]", "Write this conversation to a file.", _export, _formats),
    Command("/import", "FILE", "Store the conversations of a file.", _import),
)
