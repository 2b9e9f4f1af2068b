"""The rows of completion, adapters and help, from the core's own tables. Imported early, so the core comes late."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mp13.chat.tui.widgets.completion import Suggestion

if TYPE_CHECKING:
    from mp13.chat.conversation.session import ChatSession
    from mp13.chat.library.shelf import Shelved
    from mp13.service.schema import EngineInfo


def suggestions(session: ChatSession, line: str) -> list[Suggestion]:
    """How the slash command `line` can go on; none where it already is one of the ways."""
    from mp13.chat.commands.table import COMMANDS, complete

    found = []
    for value in complete(session, line):
        command = COMMANDS.get(value)
        if command is None:
            found.append(Suggestion(value, value))
        else:
            found.append(Suggestion(value + " " if command.hint else value, f"{value} {command.hint}", command.help))
    return [] if line in (suggestion.value for suggestion in found) else found


def shelf_of(session: ChatSession) -> list[Shelved]:
    """The adapters on disk and where each is now. Reads their folders; hashes nothing."""
    from mp13.chat.library.shelf import look

    return look(session.settings, session.available_adapters(), session.adapters)


def engine_rows(engine: EngineInfo) -> list[tuple[str, str]]:
    """What runs, and why it was chosen so."""
    rows = [
        ("model", engine.model),
        ("runs as", f"{engine.model_type}, {engine.model_impl}, {engine.dtype} on {engine.device}"),
        ("attention", engine.attn_implementation),
        ("quantization", engine.quantization),
        ("context", f"{engine.max_model_len:,} tokens; cache for {engine.kv_cache_tokens:,}"),
    ]
    return rows + [("note", note) for note in engine.notes]
