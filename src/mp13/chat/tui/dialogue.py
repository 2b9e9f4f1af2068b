"""Keeps what was sent and the rows it has in the transcript together, until it is answered, failed or taken back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from textual.content import Content

from mp13.chat.tui.events import Entry
from mp13.chat.tui.widgets.transcript import Transcript
from mp13.chat.tui.widgets.turns import Answer, Notice, Question, Row

if TYPE_CHECKING:
    from mp13.chat.conversation.turn import Turn


class Dialogue:
    def __init__(self, transcript: Transcript) -> None:
        self._transcript = transcript
        self._sent: dict[Entry, Question | Notice] = {}
        self._answers: dict[Entry, list[Answer]] = {}

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
            await self._answer(entry, row, (mix,))

    async def compare(self, entry: Entry, mixes: tuple[str, ...], text: str) -> None:
        """The entry is a comparison: its prompt stands in its place, and an answer of each mix under it."""
        command, question = self._sent[entry], Question(text)
        await self._transcript.add(question, after=command)
        await self._transcript.drop(command)
        self._sent[entry] = question
        await self._answer(entry, question, mixes)

    async def _answer(self, entry: Entry, row: Row, mixes: tuple[str, ...]) -> None:
        self._answers[entry] = [Answer(mix) for mix in mixes]
        for answer in self._answers[entry]:
            await self._transcript.add(answer, after=row)
            row = answer

    def feed(self, entry: Entry, text: str, index: int) -> None:
        self._answers[entry][index].feed(text)

    async def end(self, entry: Entry, turn: Turn, index: int) -> None:
        """An answer is whole."""
        await self._answers[entry][index].finish(turn)
        if all(answer.is_settled for answer in self._answers[entry]):
            del self._sent[entry], self._answers[entry]

    async def stop(self, entry: Entry, partial: Mapping[str, Turn]) -> None:
        """The reader had enough. `partial` is what was stored, by mix.

        It may already be over, when it is stopped while its last event is on the way: the first end counts.
        """
        if (answers := self._answers.pop(entry, None)) is not None:
            del self._sent[entry]
            for answer in answers:
                if not answer.is_settled:
                    await answer.finish(partial.get(answer.mix), "stopped")
        elif entry in self._sent:
            await self.settle(entry, f"{entry.text}: stopped")

    async def fail(self, entry: Entry, reason: str, partial: Mapping[str, Turn]) -> None:
        """Say why, under what was sent and what came of it."""
        row: Row | None = self._sent.pop(entry, None)
        command = row if isinstance(row, Notice) else None
        if isinstance(row, Question):
            row.set_waiting(False)
        for answer in self._answers.pop(entry, []):
            if not answer.is_settled and answer.mix not in partial:
                await self._transcript.drop(answer)
                continue
            if not answer.is_settled:
                await answer.finish(partial[answer.mix])
            row = answer
        await self._transcript.add(Notice(reason, "error"), after=row)
        if command is not None:
            await self._transcript.drop(command)

    async def settle(self, entry: Entry, message: str | Content) -> None:
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
