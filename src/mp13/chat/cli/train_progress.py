"""How far a training run is, on stderr: one line on a terminal, else a line at each tenth of the run."""

import sys
import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from mp13.chat.cli.outcome import complain
from mp13.chat.library.shown import size
from mp13.chat.library.train_view import duration
from mp13.engine.training.events import EvalDone, StepDone, TrainEvent

_LINES = 10  # of a run that nobody watches


class TrainProgress:
    """A context manager. `total_steps` are the run's, `step` those that are done already."""

    def __init__(self, program: str, total_steps: int, step: int) -> None:
        self._program, self._total, self._first = program, total_steps, step
        self._begun = time.monotonic()
        self._eval = ""
        self._bar: Progress | None = None
        if sys.stderr.isatty():
            self._bar = Progress(
                TextColumn("step {task.completed}/{task.total}"), BarColumn(bar_width=20),
                TextColumn("{task.description}"), TimeRemainingColumn(compact=True),
                console=Console(file=sys.stderr, highlight=False), transient=True,
            )  # fmt: skip
            self._task = self._bar.add_task("", total=total_steps, completed=step)

    def __enter__(self) -> "TrainProgress":
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, event: TrainEvent) -> None:
        if isinstance(event, EvalDone):
            self._eval = f" · eval {event.loss:.4f}{' (best)' if event.is_best else ''}"
            self._say(f"step {event.step}/{self._total}{self._eval}")
        elif isinstance(event, StepDone):
            self._step(event)

    def _step(self, event: StepDone) -> None:
        told = (
            f"loss {event.loss:.4f} · lr {event.lr:.2e} · {event.tokens_per_s:,.0f} tok/s · {size(event.memory_bytes)}"
        )
        if self._bar is not None:
            self._bar.update(self._task, completed=event.step, description=Text(told + self._eval).plain)
        elif event.step * _LINES // self._total > (event.step - 1) * _LINES // self._total or event.step == 1:
            done = event.step - self._first
            seconds = (time.monotonic() - self._begun) / done * (self._total - event.step)
            self._say(f"step {event.step}/{self._total} · {told} · {duration(seconds)} left")

    def _say(self, line: str) -> None:
        if self._bar is None:
            complain(f"{self._program}: {line}")
