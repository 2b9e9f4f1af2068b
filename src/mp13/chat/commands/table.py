"""The slash commands: one table that runs them, explains them and completes them. An unknown one is never guessed.

What a command does to the conversation is the session's; nothing here draws.
"""

import difflib
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mp13.chat.commands.comparing import comparison_of
from mp13.chat.conversation.turn import CommandResult
from mp13.chat.settings.schema import Settings
from mp13.errors import ConfigError, Mp13Error

if TYPE_CHECKING:
    from mp13.chat.conversation.session import ChatSession

Handler = Callable[["ChatSession", str], Awaitable[CommandResult]]
Choices = Callable[["ChatSession"], list[str]]


@dataclass(frozen=True)
class Command:
    """A slash command. `hint` shows its argument, `choices` are what the argument may begin with, for completion."""

    name: str
    hint: str
    help: str
    run: Handler
    choices: Choices = lambda session: []


def is_command(line: str) -> bool:
    """Whether `line` is a command and not a prompt. A prompt that begins with a slash is written with two."""
    return line.startswith("/") and not line.startswith("//")


def prompt_of(line: str) -> str:
    """The prompt that a line which is no command stands for."""
    return line[1:] if line.startswith("//") else line


async def run_command(session: "ChatSession", line: str) -> CommandResult:
    """Run the command `line`.

    Raises:
        ConfigError: there is no such command; the nearest is suggested and nothing is run.
        Mp13Error: it did not work.
    """
    word, _, argument = line.strip().partition(" ")
    command = COMMANDS.get(word)
    if command is None:
        near = difflib.get_close_matches(word, COMMANDS, n=1)
        raise ConfigError(f"unknown command {word}; " + (f"did you mean {near[0]}?" if near else "/help lists them"))
    argument = argument.strip()
    if argument and not command.hint:
        raise ConfigError(f"{word} takes no argument, but {argument!r} was given; write {word} alone")
    return await command.run(session, argument)


def complete(session: "ChatSession", line: str) -> list[str]:
    """The lines that `line` can be completed to, best first; none where it is no command."""
    if not is_command(line):
        return []
    word, space, argument = line.partition(" ")
    if not space:
        return [name for name in COMMANDS if name.startswith(word)]
    if word not in COMMANDS:
        return []
    last = re.split(r"[+ ]" if word == "/compare" else r"[+]", argument)[-1] if word in _OF_MIXES else argument
    kept = line[: len(line) - len(last)]
    return [kept + choice for choice in COMMANDS[word].choices(session) if choice.startswith(last)]


async def _adapter(session: "ChatSession", argument: str) -> CommandResult:
    if argument:
        chosen = f"{await session.set_mix(argument)} answers from here on"
        return CommandResult("\n".join([chosen, *map(str, session.remarks)]), mix_changed=True)
    lines = [f"{session.mix} answers now", "base"]
    for adapter in session.available_adapters():
        size = f"{adapter.size_bytes / 1e6:.1f} MB"
        state = f"cannot be used: {adapter.unfit}" if adapter.unfit else f"{adapter.kind}, rank {adapter.rank}, {size}"
        lines.append(f"{adapter.name}  {state}")
    return CommandResult("\n".join(lines))


async def _adapters(session: "ChatSession", argument: str) -> CommandResult:
    from mp13.chat.commands.library import adapters_command

    return await adapters_command(session, argument)


async def _compare(session: "ChatSession", argument: str) -> CommandResult:
    return CommandResult("", comparison=comparison_of(argument, _mix_names(session)))


async def _keep(session: "ChatSession", argument: str) -> CommandResult:
    if argument:
        kept = session.keep(argument)
        return CommandResult(f"the conversation goes on with the answer of {kept.mix}", turns_changed=True)
    listed = [
        f"{number}  {turn.mix}{'  (kept)' if turn == session.turns[-1] else ''}  {' '.join(turn.text.split())[:60]}"
        for number, turn in enumerate(session.answers, start=1)
    ]
    return CommandResult("\n".join(listed) or "there is no answer yet")


async def _diff(session: "ChatSession", argument: str) -> CommandResult:
    return CommandResult("", diff=await session.diff(argument or None))


async def _reload(session: "ChatSession", argument: str) -> CommandResult:
    names = await session.reload(argument or None)
    loaded = {info.name: info.digest[:12] for info in session.adapters}
    lines = [f"{name} is loaded as it is on disk now ({loaded[name]})" for name in names]
    return CommandResult("\n".join(lines) or "no adapter has changed since it was loaded", mix_changed=bool(names))


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
    if session.store is None:
        raise Mp13Error("conversations are not kept in this chat; start it without --no-log")
    listed = [f"{info.id[:8]}  {info.turns} turns  {info.title[:60]!r}" for info in session.store.conversations()]
    return CommandResult("\n".join(listed) or "no conversation is stored yet")


async def _help(session: "ChatSession", argument: str) -> CommandResult:
    width = max(len(f"{command.name} {command.hint}") for command in COMMANDS.values())
    lines = [f"{f'{c.name} {c.hint}':<{width}}  {c.help}" for c in COMMANDS.values()]
    return CommandResult("\n".join([*lines, f"{'//…':<{width}}  A prompt that begins with one slash."]))


async def _quit(session: "ChatSession", argument: str) -> CommandResult:
    return CommandResult("", quit=True)


def _mix_names(session: "ChatSession") -> list[str]:
    return ["base", *(adapter.name for adapter in session.available_adapters() if adapter.unfit is None)]


def _verbs(session: "ChatSession") -> list[str]:
    return ["list", "show", "add", "remove", "rename", "tag", "check", "merge", "export"]


def _loaded_names(session: "ChatSession") -> list[str]:
    return [info.name for info in session.adapters]


def _answers(session: "ChatSession") -> list[str]:
    return [turn.mix for turn in session.answers]


def _stored_ids(session: "ChatSession") -> list[str]:
    return [] if session.store is None else [info.id[:8] for info in session.store.conversations()]


def _setting_keys(session: "ChatSession") -> list[str]:
    return [f"{key}=" for key in Settings.model_fields]


_TABLE = (
    Command("/adapter", "[MIX]", "Choose who answers, as a:0.7+b; alone, list.", _adapter, _mix_names),
    Command("/adapters", "[VERB …]", "The library: list, show, add, check, merge, …", _adapters, _verbs),
    Command("/compare", "MIX MIX… [TEXT]", "Several mixes answer; the first is kept.", _compare, _mix_names),
    Command("/keep", "[N|MIX]", "Go on with another answer; alone, list them.", _keep, _answers),
    Command("/diff", "[MIX]", "What the answer owes to its mix.", _diff, _mix_names),
    Command("/reload", "[NAME]", "Load adapters again that changed on disk.", _reload, _loaded_names),
    Command("/system", "[TEXT|-]", "Set the system prompt; '-' removes it.", _system),
    Command("/set", "[KEY[=VALUE]]", "Change a setting, or show one or all.", _set, _setting_keys),
    Command("/new", "", "Start a new conversation.", _new),
    Command("/resume", "[ID|latest]", "Go on with a stored one; alone, list them.", _resume, _stored_ids),
    Command("/help", "", "Show this.", _help),
    Command("/quit", "", "Leave.", _quit),
)
_OF_MIXES = ("/adapter", "/compare", "/diff")  # completed at the last member of a mix
COMMANDS = {command.name: command for command in _TABLE}
