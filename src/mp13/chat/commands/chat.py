"""The commands about the chat itself: settings, system prompt, conversations, leaving."""

import difflib
import re
from typing import TYPE_CHECKING

from mp13.chat.commands.command import Command
from mp13.chat.conversation.turn import CommandResult
from mp13.chat.settings.schema import Settings
from mp13.errors import ConfigError

if TYPE_CHECKING:
    from mp13.chat.conversation.session import ChatSession


async def _system(session: "ChatSession", argument: str) -> CommandResult:
    if argument:
        session.set_system(None if argument == "-" else argument)
    return CommandResult(f"system prompt: {session.system}" if session.system else "no system prompt")


async def _set(session: "ChatSession", argument: str) -> CommandResult:
    key, given, value = re.split(r"(\s*=\s*|\s+|$)", argument, maxsplit=1)  # KEY=VALUE, KEY VALUE or KEY
    if given:
        is_other = await session.change_settings(**{key: value})
        shown = _shown(session, key) + ("; the engine starts anew with it" if is_other else "")
        return CommandResult(shown, mix_changed=key == "adapter", engine_changed=is_other)
    if not key:
        return CommandResult("\n".join(_shown(session, key) for key in Settings.model_fields))
    if key not in Settings.model_fields:
        near = difflib.get_close_matches(key, Settings.model_fields, n=1)
        raise ConfigError(f"unknown setting {key!r}; " + (f"did you mean {near[0]!r}?" if near else "/set lists them"))
    return CommandResult(f"{_shown(session, key)}  {Settings.model_fields[key].description}")


def _shown(session: "ChatSession", key: str) -> str:
    now = {"adapter": session.mix, "system": session.system}
    value = now.get(key, getattr(session.settings, key))
    return f"{key} = {'none' if value is None else value}"


async def _new(session: "ChatSession", argument: str) -> CommandResult:
    session.new()
    return CommandResult("a new conversation", turns_changed=True)


async def _resume(session: "ChatSession", argument: str) -> CommandResult:
    if argument:
        session.resume(argument)
        message = f"back in conversation {session.conversation_id[:8]}, {session.mix} answers"
        return CommandResult(message, turns_changed=True, mix_changed=True)
    listed = [
        f"{info.id[:8]}  {info.turns} turns  {info.title[:60]!r}" for info in session.needed_store.conversations()
    ]
    return CommandResult("\n".join(listed) or "no conversation is stored yet")


async def _find(session: "ChatSession", argument: str) -> CommandResult:
    if not argument:
        raise ConfigError("/find needs words to look for in all conversations")
    found = session.needed_store.search(argument, present=session.conversation_id)
    marks = str.maketrans("\x02\x03\n", "[] ")
    lines = [f"{hit.conversation_id[:8]}  {hit.title[:24]!r}  {hit.snippet.translate(marks)}" for hit in found]
    return CommandResult("\n".join(lines) or f"nothing contains {argument!r}")


async def _title(session: "ChatSession", argument: str) -> CommandResult:
    session.needed_store.rename(session.conversation_id, "" if argument == "-" else argument)
    return CommandResult("the first prompt names this conversation" if argument == "-" else f"called {argument!r} now")


async def _quit(session: "ChatSession", argument: str) -> CommandResult:
    return CommandResult("", quit=True)


def _stored_ids(session: "ChatSession") -> list[str]:
    return [] if session.store is None else [info.id[:8] for info in session.store.conversations()]


def _setting_keys(session: "ChatSession") -> list[str]:
    return [f"{key}=" for key in Settings.model_fields]


CHAT_COMMANDS = (
    Command("/system", "[TEXT|-]", "Set the system prompt; '-' removes it.", _system),
    Command("/set", "[KEY[=VALUE]]", "Change a setting, or show one or all.", _set, _setting_keys),
    Command("/new", "", "Start a new conversation.", _new),
    Command("/resume", "[ID|latest]", "Go on with a stored one; alone, list them.", _resume, _stored_ids),
    Command("/find", "TEXT", "Search all conversations.", _find),
    Command("/title", "TEXT|-", "Name this conversation.", _title),
    Command("/quit", "", "Leave.", _quit),
)
