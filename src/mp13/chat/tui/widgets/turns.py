"""The rows of the transcript: what the reader asked, what was answered and by whom, and what mp13 has to say.

Model text, names and errors reach the terminal only through `printable`, and never as Textual markup. A row can be
made `again` after it was taken off the screen.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Literal

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content
from textual.style import Style
from textual.widgets import Static

from mp13.chat.text import printable
from mp13.chat.tui.palette import mix_spans, mix_voices
from mp13.chat.tui.widgets.heat_map import HeatMap

if TYPE_CHECKING:
    from textual.timer import Timer
    from textual.widgets.markdown import MarkdownStream

    from mp13.chat.conversation.turn import Turn
FLUSH_S = 0.1  # between two flushes: each lays the screen out anew, and takes the CPU from an engine that shares it
LOOK_S = 0.02  # between two looks at whether it is time for one
TYPING_S = 0.5  # after a key more are to be expected
BETWEEN_KEYS_S = 0.03  # after a key the next one is far; a flush then is in nobody's way
Kind = Literal["info", "error", "waiting"]
Place = tuple[int, int]  # of a turn among its siblings: its number from 1, and how many they are
ALONE: Place = (1, 1)
Spans = list[tuple[str, str | Style]]


def sibling_spans(turn: Turn | None, place: Place) -> Spans:
    """`‹ 2/3 ›`, whose ends can be clicked; nothing where a turn stands alone."""
    number, count = place
    if turn is None or count < 2:
        return []
    spans: Spans = [(f" {number}/{count} ", "$accent")]
    for sign, step, there in (("‹", -1, number > 1), ("›", 1, number < count)):
        walk = Style.from_meta({"@click": f"screen.walk({turn.id!r}, {step})"})
        end = (sign, walk) if there else (sign, "$foreground 35%")
        spans = [end, *spans] if step < 0 else [*spans, end]
    return spans


class Question(Static):
    """A prompt of the reader, verbatim. While it waits for the engine or an earlier answer, it says so."""

    def __init__(self, text: str, waiting: bool = False, turn: Turn | None = None, place: Place = ALONE) -> None:
        super().__init__(markup=False)
        self.text = text
        self.waiting = waiting
        self.turn = turn
        self._place = place

    def on_mount(self) -> None:
        self.set_waiting(self.waiting)

    def set_waiting(self, waiting: bool) -> None:
        self.waiting = waiting
        self.set_class(waiting, "-waiting")
        note: Spans = [("waiting", "italic $foreground 60%")] if waiting else sibling_spans(self.turn, self._place)
        self.update(Content.assemble(printable(self.text), *([("\n", ""), *note] if note else [])))

    def tell_place(self, place: Place) -> None:
        """How many stand beside it now."""
        if place != self._place:
            self._place = place
            self.set_waiting(self.waiting)

    @property
    def is_settled(self) -> bool:
        return not self.waiting

    def again(self) -> Question:
        return Question(self.text, self.waiting, self.turn, self._place)


class Answer(Vertical):
    """An answer under `mix`: markdown that grows while tokens come, and the badge of what produced it."""

    def __init__(self, mix: str, turn: Turn | None = None, note: str = "", place: Place = ALONE) -> None:
        from mp13.chat.tui.widgets.answer_markdown import AnswerMarkdown
        from mp13.chat.tui.widgets.reasoning import Reasoning

        super().__init__(classes=mix_voices(mix)[0])
        self._mix = mix
        self._turn = turn
        self._note = note
        self._is_over = turn is not None or bool(note)
        self._said = printable(turn.text) if turn else ""
        self._reasoning = Reasoning()
        self._drawn = self._tell_thought()
        self._markdown = AnswerMarkdown(self._drawn)
        self._place = place
        self._badge = Badge(mix, turn, note, place)
        self._pending: list[str] = []
        self._flushed_at = 0.0
        self._stream: MarkdownStream | None = None
        self._timer: Timer | None = None

    def compose(self) -> ComposeResult:
        yield self._reasoning
        yield self._markdown
        yield self._badge

    def _tell_thought(self) -> str:
        """Show what the model thought; returns its answer."""
        from mp13.chat.conversation.reasoning import parts_of

        parts = parts_of(self._said)
        self._reasoning.tell(parts.thought, parts.is_open, is_live=not self._is_over)
        return parts.answer

    def on_mount(self) -> None:
        self._markdown.close_gap()

    def feed(self, text: str) -> None:
        """More of the answer; drawn with the next flush."""
        self._pending.append(printable(text))
        if self._timer is None:
            self._timer = self.set_interval(LOOK_S, self._flush_in_time)

    async def _flush_in_time(self) -> None:
        """While the reader types, right after a key: one that is pressed while the screen is laid out has to wait."""
        now = monotonic()
        since_flush, since_key = now - self._flushed_at, now - getattr(self.app, "key_pressed_at", 0.0)
        if since_flush >= (FLUSH_S if since_key < BETWEEN_KEYS_S or since_key > TYPING_S else TYPING_S):
            self._flushed_at = now
            await self._flush()

    async def _flush(self) -> None:
        if self._pending:
            self._said += "".join(self._pending)
            self._pending.clear()
            answer = self._tell_thought()
            more, self._drawn = answer.removeprefix(self._drawn), answer
            if more and self._stream is None:  # a stream that was never written to cannot be stopped
                self._stream = self._markdown.get_stream(self._markdown)
            if more and self._stream is not None:
                await self._stream.write(more)
        self._markdown.close_gap()  # under what the flush before this one drew: the stream takes its time

    async def finish(self, turn: Turn | None, note: str = "") -> None:
        """No more text comes. `turn` is what was stored; `note` says why there is none, or only a part."""
        self._turn, self._note, self._is_over = turn, note, True
        if self._timer is not None:
            self._timer.stop()
        await self._flush()
        if self._stream is not None:
            await asyncio.sleep(0)  # a stream that is stopped before its task has begun cancels who stops it
            await self._stream.stop()
        self._said = printable(turn.text) if turn is not None else self._said
        await self._complete(self._tell_thought())
        async with self._markdown.lock:  # the stream's last piece may still be on its way to the screen
            self._markdown.close_gap()
        self._badge.tell(turn, note, self._place)

    def tell_place(self, place: Place) -> None:
        """How many stand beside it now."""
        if place != self._place:
            self._place = place
            self._badge.tell(self._turn, self._note, place)

    @property
    def turn(self) -> Turn | None:
        """What is stored of it; None while it is written."""
        return self._turn

    async def _complete(self, text: str) -> None:
        """Show what was stored. A long answer is not drawn again for its last words."""
        shown = self._markdown.source
        if text.startswith(shown):
            if more := text.removeprefix(shown):
                await self._markdown.append(more)
        else:
            await self._markdown.update(text)

    @property
    def mix(self) -> str:
        return self._mix

    @property
    def is_settled(self) -> bool:
        return self._is_over

    def again(self) -> Answer:
        return Answer(self._mix, self._turn, self._note, self._place)


class Badge(Static):
    """One line under an answer: a dot in the colour of each adapter that spoke, and what it cost."""

    def __init__(self, mix: str, turn: Turn | None, note: str, place: Place = ALONE) -> None:
        super().__init__(markup=False)
        self._mix = mix
        self.tell(turn, note, place)

    def tell(self, turn: Turn | None, note: str, place: Place = ALONE) -> None:
        """Show the badge of `turn`, or `note` where nothing was stored; "…" while the answer runs."""
        from mp13.chat.conversation.badge import badge

        text = badge(turn) if turn is not None else f"{self._mix} · {note or '…'}"
        dots = [("●", f"${voice}") for voice in mix_voices(self._mix)]
        named, rest = (mix_spans(self._mix), text[len(self._mix) :]) if text.startswith(self._mix) else ([], text)
        beside = sibling_spans(turn, place)
        gap = "  " if beside else ""
        self.update(Content.assemble(*dots, " ", *named, (printable(rest), "$foreground 60%"), gap, *beside))


class Notice(Static):
    """What mp13 itself has to say: what a command did, or what went wrong; or a command that still waits.

    Text that has its styles already must be printable.
    """

    def __init__(self, text: str | Content, kind: Kind = "info") -> None:
        content = Content(printable(text)) if isinstance(text, str) else text
        super().__init__(content, markup=False, classes=f"-{kind}")
        self._text = text
        self._kind = kind

    @property
    def turn(self) -> None:
        """It is none of the conversation's."""

    def tell_place(self, place: Place) -> None:
        pass

    @property
    def is_settled(self) -> bool:
        return self._kind != "waiting"

    def again(self) -> Notice:
        return Notice(self._text, self._kind)


Row = Question | Answer | Notice | HeatMap


def row_of(turn: Turn, place: Place = ALONE) -> Callable[[], Row]:
    """How to draw a turn that was stored."""
    if turn.role == "user":
        return partial(Question, turn.text, turn=turn, place=place)
    return partial(Answer, turn.mix, turn, place=place)
