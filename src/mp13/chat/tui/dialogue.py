"""Keeps what was sent and the rows it has in the transcript together, until it is answered, failed or taken back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from textual.content import Content

from mp13.chat.tui.events import Entry
from mp13.chat.tui.widgets.columns import Columns
from mp13.chat.tui.widgets.heat_map import HeatMap
from mp13.chat.tui.widgets.transcript import Drawing, Drawn, Transcript
from mp13.chat.tui.widgets.turns import Answer, Notice, Question

if TYPE_CHECKING:
    from mp13.chat.conversation.turn import Asked, Turn


class Dialogue:
    """`path` says how to draw the conversation as it is stored now, all of it or what stands before a turn."""

    def __init__(self, transcript: Transcript, path: Callable[[Turn | None], list[Drawing]]) -> None:
        self._transcript = transcript
        self._path = path
        self._moved: set[Entry] = set()  # those for whose answers the path was drawn anew
        self._sent: dict[Entry, Question | Notice] = {}
        self._answers: dict[Entry, list[Answer]] = {}

    async def send(self, entry: Entry, waiting: bool) -> None:
        """Show the entry at the end, and go there."""
        row = Notice(entry.text, "waiting") if entry.is_command else Question(entry.text, waiting)
        self._sent[entry] = row
        await self._transcript.add(row)
        self._transcript.anchor()

    def begin(self, entry: Entry) -> None:
        """The entry's turn has come."""
        row = self._sent[entry]
        if isinstance(row, Question):
            row.set_waiting(False)

    async def ask(self, entry: Entry, asked: Asked) -> None:
        """The prompt stands at the end of the path now, and an answer of each mix under it."""
        row = self._sent.pop(entry)
        if not asked.is_next:
            self._moved.add(entry)
            await self._transcript.show(self._path(asked.prompt))
        if not (asked.is_next and isinstance(row, Question)):
            question = Question(asked.prompt.text, turn=asked.prompt)
            await self._transcript.add(question, after=row)
            await self._transcript.drop(row)
            row = question
        row.turn = asked.prompt
        waiting, self._sent = self._sent, {entry: row}
        answers = self._answers[entry] = [Answer(mix) for mix in asked.mixes]
        await self._transcript.add(answers[0] if len(answers) == 1 else Columns(answers), after=row)
        self._sent |= waiting if asked.is_next else await self._again(waiting)

    def feed(self, entry: Entry, text: str, index: int) -> None:
        self._answers[entry][index].feed(text)

    async def end(self, entry: Entry, turn: Turn, index: int) -> None:
        """An answer is whole."""
        await self._answers[entry][index].finish(turn)
        if all(answer.is_settled for answer in self._answers[entry]):
            del self._sent[entry], self._answers[entry]
            self._moved.discard(entry)

    async def stop(self, entry: Entry, partial: Mapping[str, Turn]) -> None:
        """The reader had enough. `partial` is what was stored, by mix.

        It may already be over, when it is stopped while its last event is on the way: the first end counts.
        """
        if (answers := self._answers.pop(entry, None)) is not None:
            del self._sent[entry]
            for answer in answers:
                if not answer.is_settled:
                    await answer.finish(partial.get(answer.mix), "stopped")
            await self._go_back(entry, partial)
        elif entry in self._sent:
            await self.settle(entry, f"{entry.text}: stopped")

    async def fail(self, entry: Entry, reason: str, partial: Mapping[str, Turn]) -> None:
        """Say why, under what was sent and what came of it."""
        row: Drawn | None = self._sent.pop(entry, None)
        command = row if isinstance(row, Notice) else None
        if isinstance(row, Question):
            row.set_waiting(False)
        for answer in self._answers.pop(entry, []):
            drawn = _drawn(answer)
            if not answer.is_settled and answer.mix not in partial:
                await (drawn.drop(answer) if isinstance(drawn, Columns) else self._transcript.drop(drawn))
                continue
            if not answer.is_settled:
                await answer.finish(partial[answer.mix])
            row = drawn
        row = None if await self._go_back(entry, partial) else row
        await self._transcript.add(Notice(reason, "error"), after=row)
        if command is not None:
            await self._transcript.drop(command)

    async def settle(self, entry: Entry, message: str | Content) -> None:
        """A command is done; what it says stands in its place."""
        row = self._sent.pop(entry)
        if message:
            await self._transcript.add(Notice(message), after=row)
        await self._transcript.drop(row)

    async def take_apart(self, entry: Entry, heat_map: HeatMap) -> None:
        """Draw the last answer as `heat_map`, until that is left."""
        row = self._sent.pop(entry)
        if (answer := self._last_answer()) is not None:
            answer.display = False
        for seen in [one for one in self._transcript.rows if isinstance(one, HeatMap)]:
            await self._transcript.drop(seen)
        await self._transcript.add(heat_map, after=row)
        await self._transcript.drop(row)

    async def leave(self, heat_map: HeatMap) -> None:
        await self._transcript.drop(heat_map)
        for answer in self._transcript.rows:
            answer.display = True

    def _last_answer(self) -> Answer | None:
        return next((row for row in reversed(self._transcript.rows) if isinstance(row, Answer)), None)

    async def withdraw(self, entry: Entry) -> None:
        await self._transcript.drop(self._sent.pop(entry))

    async def redraw(self, at: int | None = None) -> None:
        """Draw the path anew: it is another one. What still waits will be asked in it, and goes under it. `at` is the
        turn that is to be seen; without, the last."""
        await self._transcript.show(self._path(None), at)
        self._sent = await self._again(self._sent)

    async def _again(self, sent: dict[Entry, Question | Notice]) -> dict[Entry, Question | Notice]:
        """What was sent, drawn anew at the end."""
        drawn = {entry: row.again() for entry, row in sent.items()}
        for row in drawn.values():
            await self._transcript.add(row)
        return drawn

    async def _go_back(self, entry: Entry, partial: Mapping[str, Turn]) -> bool:
        """Where the path was moved for an answer of which nothing came, it is what it was before."""
        is_back = entry in self._moved and not partial
        self._moved.discard(entry)
        if is_back:
            await self.redraw()
        return is_back


def _drawn(answer: Answer) -> Answer | Columns:
    """The row in which `answer` stands."""
    return next((above for above in answer.ancestors if isinstance(above, Columns)), answer)
