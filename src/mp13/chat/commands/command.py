"""What a slash command is. The table of all of them is table.py; the handlers stand by subject beside it."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mp13.chat.conversation.turn import CommandResult

if TYPE_CHECKING:
    from mp13.chat.conversation.session import ChatSession

Handler = Callable[["ChatSession", str], Awaitable[CommandResult]]
Choices = Callable[["ChatSession"], list[str]]


@dataclass(frozen=True)
class Command:
    """`hint` shows the argument, "" where there is none; `choices` are what it may begin with, for completion.

    With `of_mixes`, each member of a mix is completed by itself.
    """

    name: str
    hint: str
    help: str
    run: Handler
    choices: Choices = lambda session: []
    of_mixes: bool = False
