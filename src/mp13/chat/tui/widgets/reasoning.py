"""What the model thought before it answered: a line above the answer, which unfolds. While it thinks the line lives.

What belongs to the thought is said by conversation/reasoning.py.
"""

from __future__ import annotations

import time

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content
from textual.widget import Widget
from textual.widgets import Static

from mp13.chat.text import one_line
from mp13.chat.tui.keymap import key_label

_SEEN = 400  # characters at the end of a thought, of which the living line shows what fits


class Reasoning(Vertical):
    """Not there until there is a thought to tell. Its text is printable already."""

    def __init__(self) -> None:
        super().__init__()
        self._head = Static(markup=False, classes="head")
        self._body = Static(markup=False, classes="body")
        self._thought = ""
        self._is_open = False
        self._is_live = False
        self._began: float | None = None
        self._seconds: float | None = None  # None where nobody saw the model think
        self.display = self._body.display = False

    def compose(self) -> ComposeResult:
        yield self._head
        yield self._body

    def on_mount(self) -> None:
        self._draw()  # with the key, which is known now

    def tell(self, thought: str | None, is_open: bool, is_live: bool) -> None:
        """`is_open` while the model thinks; `is_live` when its answer is being written before the reader's eyes."""
        if is_live and is_open and self._began is None:
            self._began = time.monotonic()
        if self._began is not None and (is_open or self._seconds is None):
            self._seconds = time.monotonic() - self._began
        self._thought, self._is_open, self._is_live = thought or "", is_open, is_live
        self.display = bool(self._thought)
        self._draw()

    def toggle(self) -> None:
        self._body.display = not self._body.display
        self._draw()

    @property
    def is_unfolded(self) -> bool:
        return bool(self._body.display)

    def _draw(self) -> None:
        mark = "▾" if self.is_unfolded else "▸"
        spans = [(f"{mark} {self._heading()}", "$foreground 60%")]
        if self._is_open and self._is_live and not self.is_unfolded:
            spans.append((f"  {one_line(self._thought[-_SEEN:])[-_SEEN:]}", "italic $foreground 35%"))
        elif self.is_attached and not self.is_unfolded:
            spans.append((f"  {key_label(self, 'answer.thoughts')}", "$foreground 35%"))
        self._head.update(Content.assemble(*spans))
        if self.is_unfolded:
            self._body.update(Content(self._thought))

    def _heading(self) -> str:
        count = len(self._thought.split())
        words = f"{count:,} word{'' if count == 1 else 's'}"
        seconds = "" if self._seconds is None else f" {self._seconds:.0f} s"
        if self._is_open:
            return f"thinking{seconds} · {words}" if self._is_live else f"thought, cut off · {words}"
        return f"thought for{seconds} · {words}" if seconds else f"thought · {words}"

    def on_click(self) -> None:
        self.toggle()


def toggle_all(page: Widget) -> None:
    """Unfold every thought on `page`, or fold them where all are unfolded."""
    thoughts = [thought for thought in page.query(Reasoning) if thought.display]
    unfold = not all(thought.is_unfolded for thought in thoughts)
    for thought in thoughts:
        if thought.is_unfolded != unfold:
            thought.toggle()
