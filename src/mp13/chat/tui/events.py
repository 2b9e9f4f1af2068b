"""What the conductor tells the screen, beside the session's own events. One message carries them all.

Nothing here imports the core at run time, so that the first frame does not wait for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from textual.message import Message

if TYPE_CHECKING:
    from mp13.chat.conversation.ask import Ask
    from mp13.chat.conversation.session import ChatSession
    from mp13.chat.conversation.turn import CommandResult, SessionEvent, Turn


@dataclass(frozen=True, eq=False)
class Entry:
    """One thing the reader sent: a prompt, a slash command, or an `ask` of a key, which `text` describes. Two entries
    with one text are two entries."""

    text: str
    ask: Ask | None = None

    @property
    def is_command(self) -> bool:
        return self.ask is None and self.text.startswith("/") and not self.text.startswith("//")


@dataclass(frozen=True)
class SessionOpened:
    """The core is there: commands work, prompts can be sent, the engine starts to load."""

    session: ChatSession


@dataclass(frozen=True)
class EntryStarted:
    """It is this entry's turn now."""

    entry: Entry


@dataclass(frozen=True)
class EntryWithdrawn:
    """The reader took a waiting entry back."""

    entry: Entry


@dataclass(frozen=True)
class EntryFailed:
    """The entry could not be answered. `partial` is what had come by then, by mix. `remedy` would work, but leaves out
    what the model read before: the reader is asked first."""

    entry: Entry
    reason: str
    partial: Mapping[str, Turn] = field(default_factory=dict)
    remedy: Ask | None = None


@dataclass(frozen=True)
class AnswerStopped:
    """The reader cancelled what was running. `partial` is what had come of the answers, by mix."""

    entry: Entry
    partial: Mapping[str, Turn]


@dataclass(frozen=True)
class CommandDone:
    entry: Entry
    result: CommandResult


if TYPE_CHECKING:
    ChatEvent = (
        SessionEvent | SessionOpened | EntryStarted | EntryWithdrawn | EntryFailed | AnswerStopped
        | CommandDone
    )  # fmt: skip


class Happened(Message):
    """Carries one event to the screen. Of several progress reports in a row only the last is delivered."""

    def __init__(self, event: ChatEvent) -> None:
        super().__init__()
        self.event = event

    @property
    def is_progress(self) -> bool:
        from mp13.chat.conversation.turn import LoadProgress

        return isinstance(self.event, LoadProgress)

    def can_replace(self, message: Message) -> bool:
        return isinstance(message, Happened) and self.is_progress and message.is_progress
