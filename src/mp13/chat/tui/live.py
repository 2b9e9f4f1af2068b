"""The last answer follows the weights: it is written again under each new mix, a preview until it is kept or dropped.

The latest mix wins: what is still being written under the one before is stopped. Who generates is the conductor's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mp13.chat.tui.conductor import Conductor
from mp13.chat.tui.events import AnswerStopped, Entry, EntryFailed, EntryStarted
from mp13.chat.tui.widgets.transcript import Transcript
from mp13.chat.tui.widgets.turns import Answer, Notice

if TYPE_CHECKING:
    from mp13.chat.conversation.session import ChatSession
    from mp13.chat.conversation.turn import Turn
    from mp13.chat.tui.events import ChatEvent

NOTE = "a preview: Enter keeps it beside the answer, Esc drops it"


class Live:
    """`is_on`: the last answer follows. `preview` is what stands in its place now, if anything."""

    def __init__(self, conductor: Conductor, transcript: Transcript) -> None:
        self.is_on = False
        self.preview: Answer | None = None
        self._conductor = conductor
        self._transcript = transcript
        self._entry: Entry | None = None  # the preview that is wanted or being written; the ones before count no more
        self._previews: set[Entry] = set()
        self._running: Entry | None = None
        self._turn: Turn | None = None  # of the preview, once it is whole
        self._note = Notice(NOTE)

    def follow(self, session: ChatSession) -> None:
        """The mix is another now."""
        from mp13.chat.conversation.ask import Ask

        if self.is_on and session.turns and session.turns[-1].role == "assistant":
            self.stop()
            self._entry = self._conductor.submit("", Ask(mixes=(session.mix,), is_preview=True))
            self._previews.add(self._entry)

    async def took(self, event: ChatEvent) -> bool:
        """Whether `event` is of a preview, and so of nobody else's concern."""
        from mp13.chat.conversation.turn import AnswerDone, Asked, TextDelta

        match event:
            case EntryStarted(entry):
                self._running = entry if entry in self._previews else None
            case Asked(_, (mix,)) if self._is_wanted:
                await self._begin(mix)
            case TextDelta(text) if self._is_wanted and self.preview is not None:
                self.preview.feed(text)
            case AnswerDone(turn) if self._is_wanted and self.preview is not None:
                self._turn = turn
                self._entry = None
                await self.preview.finish(turn)
            case AnswerStopped(entry) | EntryFailed(entry) if entry in self._previews:
                self._previews.discard(entry)
                if entry is self._entry:
                    await self.drop()
                return not isinstance(event, EntryFailed)
        return self._running is not None and isinstance(event, EntryStarted | Asked | TextDelta | AnswerDone)

    async def keep(self, session: ChatSession) -> bool:
        """Put the preview, where it is whole, beside the answers; whether there was one."""
        if (turn := self._turn) is None:
            return False
        session.keep_preview(turn)
        await self.drop()
        return True

    async def drop(self) -> None:
        """The answer that is kept stands in its place again."""
        self.stop()
        self._turn = None
        if (preview := self.preview) is not None:
            self.preview = None
            await self._transcript.drop(preview)
            await self._transcript.drop(self._note)
            for row in self._transcript.rows:
                row.display = True

    @property
    def _is_wanted(self) -> bool:
        return self._running is not None and self._running is self._entry

    def stop(self) -> None:
        """What is still being written, or waits to be, is not wanted any more; what came of it stays to be seen."""
        entry, self._entry = self._entry, None
        if entry is not None and not self._conductor.forget(entry) and entry is self._running:
            self._conductor.cancel()

    async def _begin(self, mix: str) -> None:
        before, note, self._turn = self.preview, self._note, None
        self.preview, self._note = Answer(mix), Notice(NOTE)
        last = before or next((row for row in reversed(self._transcript.rows) if isinstance(row, Answer)), None)
        await self._transcript.add(self.preview, after=last)
        await self._transcript.add(self._note, after=self.preview)
        self.preview.add_class("-preview")
        if before is not None:
            await self._transcript.drop(before)
            await self._transcript.drop(note)
        elif last is not None:
            last.display = False
