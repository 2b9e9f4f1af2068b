"""Draws a session's events on a plain stream: answers on stdout, all else on stderr. What is asked is headless.py's."""

import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence

from mp13.chat.cli.outcome import complain
from mp13.chat.cli.progress import Progress
from mp13.chat.conversation.badge import badge
from mp13.chat.conversation.diff import Diff
from mp13.chat.conversation.remarks import Remark, keeping_text
from mp13.chat.conversation.report import Report, turn_data
from mp13.chat.conversation.training_state import TrainingState
from mp13.chat.conversation.turn import (
    AnswerDone,
    Asked,
    EngineFailed,
    EngineReady,
    Keeping,
    LoadNote,
    LoadProgress,
    SessionEvent,
    TextDelta,
    Turn,
)
from mp13.chat.text import printable


class Printer:
    """Text streams unless answers are printed as JSON objects.

    Answers of a comparison come out one after the other, in the order of their mixes and each under its own; what the
    later ones say meanwhile is held back.
    """

    def __init__(self, as_json: bool, plain: bool = False) -> None:
        """`plain`: no colours, and no line is rewritten."""
        self._as_json = as_json
        self._plain = plain
        self._progress = Progress("mp13chat", rewrites=not plain)
        self._remarked: set[str] = set()
        self._tenth = ("", 0)  # of a run, the last that was told
        self.begin(())

    def begin(self, mixes: Sequence[str]) -> None:
        """Answers of these (canonical) mixes come now."""
        self._mixes = mixes
        self._place = 0  # of the answer that streams
        self._is_headed = len(mixes) < 2 or self._as_json
        self._held: defaultdict[int, str] = defaultdict(str)  # text by place, not yet printed
        self._whole: dict[int, Turn] = {}
        self._printed: set[str] = set()

    def show(self, event: SessionEvent) -> None:
        match event:
            case LoadProgress(stage, fraction):
                self._progress(stage, fraction)
            case LoadNote(text):
                self._progress.clear()
                complain(f"mp13chat: {text}")
            case EngineReady(info):
                self._progress.clear()
                for note in info.notes:
                    complain(f"mp13chat: {note}")
            case EngineFailed(error):
                self._progress.clear()
                raise error
            case Asked(_, mixes):
                self.begin(mixes)
            case TextDelta(text, index):
                self._held[index] += text
                self._pour()
            case Keeping(problem):
                complain(f"mp13chat: {keeping_text(problem)}")
            case AnswerDone(turn, index):
                self._whole[index] = turn
                while (next_turn := self._whole.get(self._place)) is not None:
                    self._finish(next_turn)
                    self._go_to(self._place + 1)
                self._pour()

    def how_far(self, state: TrainingState | None) -> None:
        """Of the run that trains, a line at each tenth."""
        if state is not None and state.phase == "running" and state.step:
            tenth = (state.name, state.step * 10 // state.total_steps)
            if tenth != self._tenth:
                self._tenth = tenth
                complain(f"mp13chat: {state.short}")

    def cut_off(self, turns: Iterable[Turn]) -> None:
        """It ended before its end; `turns` are what came of it."""
        for turn in turns:
            if turn.id not in self._printed:
                self._go_to(self._mixes.index(turn.mix))
                self._finish(turn)

    def remark(self, remarks: Iterable[Remark]) -> None:
        """Say what has not been said."""
        for remark in map(str, remarks):
            if remark not in self._remarked:
                self._remarked.add(remark)
                complain(f"mp13chat: {remark}")

    def diff(self, diff: Diff) -> None:
        """As one JSON object, or as text: with colours where the stream takes them."""
        if self._as_json:
            self._out(json.dumps(diff.as_json()) + "\n")
            return
        from rich.console import Console

        from mp13.chat.conversation.diff_view import diff_text

        console = Console(file=sys.stdout, highlight=False)
        plain = self._plain or console.no_color or console.color_system is None
        text = diff_text(diff, plain)
        console.print(text.plain if self._plain else text, soft_wrap=True, markup=False)

    def report(self, report: Report) -> None:
        """As one JSON object, or as lines."""
        self._out((json.dumps(report.data) if self._as_json else printable(str(report))) + "\n")

    def _go_to(self, place: int) -> None:
        if place != self._place:
            self._place, self._is_headed = place, len(self._mixes) < 2 or self._as_json

    def _pour(self) -> None:
        if not self._as_json and (text := self._held.pop(self._place, "")):
            self._head()
            self._out(printable(text))

    def _head(self) -> None:
        if not self._is_headed:
            self._is_headed = True
            self._out(f"[{self._mixes[self._place]}]\n")

    def _finish(self, turn: Turn) -> None:
        self._pour()
        self._head()
        self._printed.add(turn.id)
        self._out((as_json(turn) if self._as_json else "") + "\n")
        if not self._as_json:
            complain(f"[{badge(turn)}]")

    def _out(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()


def as_json(turn: Turn) -> str:
    """One line of ASCII, so that no character of an answer can act on a terminal."""
    return json.dumps(turn_data(turn))
