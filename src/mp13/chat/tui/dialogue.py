"""Keeps what was sent and the rows it has in the transcript together, until it is answered, failed or taken back."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from mp13.chat.tui.events import Entry
from mp13.chat.tui.widgets.transcript import Transcript
from mp13.chat.tui.widgets.turns import Answer, Notice, Question, Row

if TYPE_CHECKING:
    from mp13.chat.conversation.turn import Turn


class Dialogue:
    def __init__(self, transcript: Transcript) -> None:
        self._transcript = transcript
        self._sent: dict[Entry, Question | Notice] = {}
        self._answers: dict[Entry, Answer] = {}

    async def send(self, entry: Entry, waiting: bool) -> None:
        """Show the entry at the end, and go there."""
        row = Notice(entry.text, "waiting") if entry.is_command else Question(entry.text, waiting)
        self._sent[entry] = row
        await self._transcript.add(row)
        self._transcript.anchor()

    async def begin(self, entry: Entry, mix: str) -> None:
        """The entry's turn has come; a prompt gets its answer under it."""
        row = self._sent[entry]
        if isinstance(row, Question):
            row.set_waiting(False)
            self._answers[entry] = answer = Answer(mix)
            await self._transcript.add(answer, after=row)

    def feed(self, entry: Entry, text: str) -> None:
        self._answers[entry].feed(text)

    async def end(self, entry: Entry, turn: Turn | None, note: str = "") -> None:
        """It is over. `turn` is what was stored of the answer; `note` says why it is not whole.

        An entry may end twice, when it is stopped while its last event is on the way: the first end counts.
        """
        if (answer := self._answers.pop(entry, None)) is not None:
            del self._sent[entry]
            await answer.finish(turn, note)
        elif entry in self._sent:
            await self.settle(entry, f"{entry.text}: {note}")

    async def fail(self, entry: Entry, reason: str, partial: Turn | None) -> None:
        """Say why, under what was sent and what came of it."""
        row: Row | None = self._sent.pop(entry, None)
        if isinstance(row, Question):
            row.set_waiting(False)
        answer = self._answers.pop(entry, None)
        if answer is not None and partial is not None:
            await answer.finish(partial)
            row = answer
        elif answer is not None:
            await self._transcript.drop(answer)
        await self._transcript.add(Notice(reason, "error"), after=row)
        if isinstance(row, Notice):
            await self._transcript.drop(row)

    async def settle(self, entry: Entry, message: str) -> None:
        """A command is done; what it says stands in its place."""
        row = self._sent.pop(entry)
        if message:
            await self._transcript.add(Notice(message), after=row)
        await self._transcript.drop(row)

    async def withdraw(self, entry: Entry) -> None:
        await self._transcript.drop(self._sent.pop(entry))

    async def redraw(self, rows: list[Callable[[], Row]]) -> None:
        """Draw another conversation. What still waits will be asked in it, and goes under it."""
        await self._transcript.show(rows)
        for entry, row in self._sent.items():
            self._sent[entry] = row.again()
            await self._transcript.add(self._sent[entry])
