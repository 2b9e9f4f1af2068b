"""What a prompt would cost, at the edge of its frame: the tokens the model would read, and how many there is room for.

Counted by the engine when the reader pauses; while there is none, nothing is shown.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING

from textual.timer import Timer
from textual.widget import Widget

from mp13.errors import Mp13Error

if TYPE_CHECKING:
    from mp13.service.schema import CountReport

PAUSE_S = 0.4  # without a key, before the engine is asked
NEARLY_FULL = 0.9  # of the context

Count = Callable[[str], Awaitable["CountReport | None"]]


class PromptCost:
    def __init__(self, prompt: Widget) -> None:
        self._prompt = prompt
        self._count: Count | None = None
        self._timer: Timer | None = None

    def open(self, count: Count) -> None:
        self._count = count

    def follow(self, text: str, whole: Callable[[str], str]) -> None:
        """`text` is in the prompt now, and would be sent as `whole` of it, which may raise ConfigError."""
        if self._timer is not None:
            self._timer.stop()
        if not text.strip() or (text.startswith("/") and not text.startswith("//")):
            self._prompt.workers.cancel_group(self._prompt, "count")
            self._show(None)
        elif self._count is not None:
            self._timer = self._prompt.set_timer(PAUSE_S, partial(self._begin, self._count, text, whole))

    def _begin(self, count: Count, text: str, whole: Callable[[str], str]) -> None:
        self._prompt.run_worker(self._ask(count, text, whole), group="count", exclusive=True)

    async def _ask(self, count: Count, text: str, whole: Callable[[str], str]) -> None:
        try:
            self._show(await count(whole(text)))
        except Mp13Error:  # it is said when the prompt is sent
            self._show(None)

    def _show(self, report: CountReport | None) -> None:
        is_full = report is not None and report.prompt_tokens > NEARLY_FULL * report.context_limit
        self._prompt.border_subtitle = "" if report is None else _sentence(report)
        self._prompt.set_class(is_full, "-nearly-full")


def _sentence(report: CountReport) -> str:
    tokens, limit = report.prompt_tokens, report.context_limit
    if tokens > limit:
        return f"{tokens:,} tokens, too many for a context of {limit:,}"
    nearly = " · nearly full" if tokens > NEARLY_FULL * limit else ""
    return f"{tokens:,} of {limit:,} tokens{nearly}"
