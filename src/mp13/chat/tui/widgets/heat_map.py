"""An answer in which each token shows how much its mix moved it; a cursor tells what the other would have said.

How the numbers are made is conversation/diff.py's. Token texts come from a model: only printable ones are drawn.
"""

from __future__ import annotations

import json
import math
import os
from typing import TYPE_CHECKING

from rich.cells import cell_len
from textual import events
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content
from textual.message import Message
from textual.style import Style
from textual.widgets import Static

from mp13.chat.text import printable
from mp13.chat.tui.keymap import bind
from mp13.chat.tui.palette import mix_spans, mix_voices
from mp13.chat.tui.widgets.rows import FAINT, MUTED

if TYPE_CHECKING:
    from mp13.chat.conversation.diff import Diff, DiffToken

_HEAT = (
    (3.0, "$background on ${voice} 85%"),
    (1.0, "on ${voice} 50%"),
    (0.25, "on ${voice} 30%"),
    (0.05, "on ${voice} 14%"),
)
_BAR = 16  # cells of a probability of 1


class HeatMap(Vertical, can_focus=True):
    """`is_plain` marks with characters what else is seen by colour."""

    BINDINGS = [
        bind("diff.right", "move(1)", "Token"),
        bind("diff.left", "move(-1)"),
        bind("diff.next_turned", "move_to_turned(1)", "Next turned"),
        bind("diff.previous_turned", "move_to_turned(-1)"),
        bind("diff.leave", "leave", "Back"),
    ]

    class Left(Message):
        """The reader has seen enough."""

        def __init__(self, heat_map: HeatMap) -> None:
            super().__init__()
            self.heat_map = heat_map

    def __init__(self, diff: Diff) -> None:
        super().__init__(classes=mix_voices(diff.mix)[0])
        self.diff = diff
        self.is_settled = True
        self._is_plain = bool(os.environ.get("NO_COLOR"))
        self._cursor = next((place for place, token in enumerate(diff.tokens) if token.is_turned), 0)
        self._text = Static(markup=False, classes="tokens")
        self._detail = Static(markup=False, classes="detail")

    def compose(self) -> ComposeResult:
        yield Static(_head(self.diff), markup=False)
        yield self._text
        yield self._detail
        yield Static(_legend(self.diff, self._is_plain), markup=False, classes="legend")

    def again(self) -> HeatMap:
        return HeatMap(self.diff)

    @property
    def turn(self) -> None:
        """It is none of the conversation's."""

    def tell_place(self, place: tuple[int, int]) -> None:
        pass

    def on_mount(self) -> None:
        self._draw()

    def on_focus(self) -> None:
        self._draw()

    def on_blur(self) -> None:
        self._draw()

    def action_move(self, step: int) -> None:
        self._go(self._cursor + step)

    def action_move_to_turned(self, step: int) -> None:
        places = range(self._cursor + step, len(self.diff.tokens) if step > 0 else -1, step)
        self._go(next((place for place in places if self.diff.tokens[place].is_turned), self._cursor))

    def action_leave(self) -> None:
        self.post_message(self.Left(self))

    def on_click(self, event: events.Click) -> None:
        place = event.style.meta.get("token")
        if isinstance(place, int):
            self._go(place)

    def _go(self, place: int) -> None:
        self._cursor = min(max(place, 0), len(self.diff.tokens) - 1)
        self._draw()

    def _draw(self) -> None:
        spans = []
        for place, token in enumerate(self.diff.tokens):
            shown = Content.styled(self._shown(token), self._style(place, token))
            spans.append(shown.stylize(Style.from_meta({"token": place})))
        self._text.update(Content("").join(spans))
        if self.diff.tokens:
            self._detail.update(_detail(self.diff, self._cursor))

    def _shown(self, token: DiffToken) -> str:
        text = printable(token.text)
        if self._is_plain and token.is_turned:
            return f"[{text}|{printable(token.other_best)}]".replace("\n", "↵")
        return text.replace("\n", "↵\n") if token.is_turned or _heat(token) else text

    def _style(self, place: int, token: DiffToken) -> str:
        voice = mix_voices(self.diff.mix)[0]
        turned = "bold underline " if token.is_turned else ""
        if place == self._cursor and self.has_focus:
            return f"{turned}reverse"
        return f"{turned}{_heat(token).replace('{voice}', voice)}".strip()


def _head(diff: Diff) -> Content:
    count = len(diff.tokens)
    note = [("\n" + printable(diff.note), "italic $text-warning")] if diff.note else []
    numbers = f" · {diff.turned_share:.0%} of {count} tokens turned · mean KL {diff.mean_kl:.2f} nats" if count else ""
    return Content.assemble(*mix_spans(diff.mix), (" beside ", MUTED), *mix_spans(diff.other), (numbers, MUTED), *note)


def _detail(diff: Diff, place: int) -> Content:
    """The token under the cursor as both judge it, and what the other would have said in its place."""
    token = diff.tokens[place]
    names = max(cell_len(diff.mix), cell_len(diff.other))
    said = (_quoted(token.other_best), "bold") if token.is_turned else ("the same", MUTED)
    moved = f"  token {place + 1} of {len(diff.tokens)} · KL {token.kl:.2f} nats"
    return Content.assemble(
        (_quoted(token.text), "bold"), (moved, MUTED), "\n",
        _judged(diff.mix, token.logprob, names), "\n",
        _judged(diff.other, token.other_logprob, names), "\n",
        *mix_spans(diff.other), (" would have said ", MUTED), said,
    )  # fmt: skip


def _judged(mix: str, logprob: float, width: int) -> Content:
    probability = math.exp(min(logprob, 0.0))
    full = round(probability * _BAR)
    bar = ("━" * full, f"${mix_voices(mix)[0]}"), ("─" * (_BAR - full), "$foreground 25%")
    gap = " " * (width - cell_len(mix))
    return Content.assemble(
        *mix_spans(mix), gap, "  ", *bar, f" {probability:6.1%}", (f"  log-prob {logprob:6.2f}", MUTED)
    )


def _legend(diff: Diff, plain: bool) -> Content:
    other = f"{diff.other} would go on differently"
    if plain:
        return Content.styled(f"[a|b]: {other}; a was written, {diff.other} prefers b", MUTED)
    voice = mix_voices(diff.mix)[0]
    swatches = [(f" {least:g} ", style.replace("{voice}", voice)) for least, style in reversed(_HEAT)]
    return Content.assemble(
        ("moved by KL ≥ ", FAINT), *swatches, ("   ", ""), ("turned", "bold underline"), (f": {other}", FAINT)
    )


def _heat(token: DiffToken) -> str:
    return next((style for least, style in _HEAT if token.kl >= least), "")


def _quoted(text: str) -> str:
    return json.dumps(printable(text), ensure_ascii=False)
