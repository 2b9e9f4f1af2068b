"""The slash commands: one table that runs them, explains them and completes them. An unknown one is never guessed.

What a command does to the conversation is the session's; nothing here draws.
"""

import difflib
import re
from typing import TYPE_CHECKING

from mp13.chat.commands.adapters import ADAPTER_COMMANDS
from mp13.chat.commands.chat import CHAT_COMMANDS
from mp13.chat.commands.command import Command
from mp13.chat.commands.everyday import EVERYDAY_COMMANDS
from mp13.chat.commands.history import HISTORY_COMMANDS
from mp13.chat.commands.mixes import MIX_COMMANDS
from mp13.chat.commands.setups import SETUP_COMMANDS
from mp13.chat.commands.training import TRAINING_COMMANDS
from mp13.chat.commands.tree import TREE_COMMANDS
from mp13.chat.conversation.turn import CommandResult
from mp13.chat.text import utf8
from mp13.errors import ConfigError

if TYPE_CHECKING:
    from mp13.chat.conversation.session import ChatSession


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
    word, *rest = utf8(line).strip().split(maxsplit=1)
    command = COMMANDS.get(word)
    if command is None:
        near = difflib.get_close_matches(word, COMMANDS, n=1)
        raise ConfigError(f"unknown command {word}; " + (f"did you mean {near[0]}?" if near else "/help lists them"))
    argument = "".join(rest)
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
    command = COMMANDS.get(word)
    if command is None:
        return []
    last = re.split(r"[+ ]" if word == "/compare" else r"[+]", argument)[-1] if command.of_mixes else argument
    kept = line[: len(line) - len(last)]
    return [kept + choice for choice in command.choices(session) if choice.startswith(last)]


async def _help(session: "ChatSession", argument: str) -> CommandResult:
    width = max(len(f"{command.name} {command.hint}") for command in COMMANDS.values())
    lines = [f"{f'{c.name} {c.hint}':<{width}}  {c.help}" for c in COMMANDS.values()]
    return CommandResult("\n".join([*lines, f"{'//…':<{width}}  A prompt that begins with one slash."]))


COMMANDS = {
    command.name: command
    for command in (
        *ADAPTER_COMMANDS,
        *MIX_COMMANDS,
        *TRAINING_COMMANDS,
        *TREE_COMMANDS,
        *CHAT_COMMANDS,
        *SETUP_COMMANDS,
        *EVERYDAY_COMMANDS,
        *HISTORY_COMMANDS,
        Command("/help", "", "Show this.", _help),
    )
}
