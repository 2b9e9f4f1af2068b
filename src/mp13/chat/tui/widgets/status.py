"""The status line: which mix of which model answers, how fast, from how much cache, and how full the context is."""

from __future__ import annotations

from dataclasses import dataclass

from rich.cells import cell_len
from textual.content import Content
from textual.reactive import reactive
from textual.widget import Widget

from mp13.chat.text import printable
from mp13.chat.tui.palette import mix_spans, mix_voices

_BAR = 12  # cells of the progress bar
_MUTED = "$foreground 60%"


@dataclass(frozen=True)
class Status:
    """What the line shows. `loading` is the stage the engine is in, None when it is up; counts are tokens."""

    model: str = ""
    mix: str = "base"
    remarks: tuple[str, ...] = ()  # what is odd about its adapters
    warmth: str = ""  # whether the history is computed under the mix, if that is known
    pinned: bool = False  # the mix holds for this branch, whatever is chosen
    loading: str | None = None
    fraction: float | None = None  # of loading, 0 to 1; None where no length is known
    problem: str = ""
    busy: str = ""  # what the engine does, if anything
    training: str = ""  # how far an adapter is that is being trained
    is_kept: bool = True  # on disk
    tokens_per_s: float | None = None
    cached_tokens: int | None = None
    context_tokens: int | None = None
    context_limit: int | None = None


Spans = list[tuple[str, str]]  # text and style


@dataclass(frozen=True)
class _Part:
    spans: Spans
    importance: int  # the least important leaves a narrow line first

    @property
    def width(self) -> int:
        return sum(cell_len(text) for text, _ in self.spans)


class StatusLine(Widget):
    """One line; on a narrow screen cache, model and speed leave it, in this order."""

    status = reactive(Status(loading="starting"))

    def render(self) -> Content:
        left, right = _left(self.status), _right(self.status)
        width = self.content_size.width
        while _width(left) + _width(right) + 2 > width and len(left) + len(right) > 2:
            least = min((*left, *right), key=lambda part: part.importance)
            (left if least in left else right).remove(least)
        who = Content.assemble(*_joined(left)).truncate(max(width - _width(right) - 1, 0), ellipsis=True)
        gap = " " * max(width - who.cell_length - _width(right), 1)
        return Content.assemble(who, gap, *_joined(right))


def _left(status: Status) -> list[_Part]:
    *most, last = mix_voices(status.mix)
    dots = [*(("●", f"${voice}") for voice in most), ("● ", f"${last}")]
    mix = _Part([*dots, *mix_spans(status.mix)], 9)
    remarks = [_part(remark, 7, "$text-warning") for remark in status.remarks]
    warmth = [_part(status.warmth, 4)] if status.warmth else []
    kept = [] if status.is_kept else [_part("not saved", 8, "$text-warning")]
    model = [_part(status.model, 2)] if status.model else []
    pinned = [_part("pinned", 6, "$accent")] if status.pinned else []
    return [mix, *kept, *pinned, *warmth, *remarks, *model]


def _right(status: Status) -> list[_Part]:
    if status.problem:
        return [_part(status.problem, 8, "$text-error")]
    if status.loading is not None:
        progress = [] if status.fraction is None else [_part(_bar(status.fraction), 8, "$accent")]
        return [_part(status.loading, 3), *progress]
    parts = [_part(status.training, 7, "$accent")] if status.training else []
    parts += [_part(status.busy, 6, "$accent")] if status.busy else []
    if status.tokens_per_s is not None:
        from mp13.chat.conversation.badge import speed

        parts.append(_part(speed(status.tokens_per_s), 3))
    if status.cached_tokens is not None:
        parts.append(_part(f"{status.cached_tokens:,} cached", 1))
    if status.context_limit is not None:
        used = status.context_tokens or 0
        nearly_full = used > 0.9 * status.context_limit
        parts.append(_part(f"{used:,}/{status.context_limit:,} ctx", 8, "$text-warning" if nearly_full else _MUTED))
    return parts


def _part(text: str, importance: int, style: str = _MUTED) -> _Part:
    return _Part([(printable(text), style)], importance)


def _bar(fraction: float) -> str:
    done = round(min(max(fraction, 0.0), 1.0) * _BAR)
    return f"{'━' * done}{'─' * (_BAR - done)} {fraction:4.0%}"


def _joined(parts: list[_Part]) -> Spans:
    joined: Spans = []
    for part in parts:
        joined += [(" · ", "$foreground 35%")] if joined else []
        joined += part.spans
    return joined


def _width(parts: list[_Part]) -> int:
    return sum(part.width for part in parts) + 3 * max(len(parts) - 1, 0)
