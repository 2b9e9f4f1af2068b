"""Training, from the side that must not load torch: the data is read and checked here, and only if it is good another
process makes tokens of it, loads the model and trains (engine/training/process)."""

import dataclasses
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mp13.engine.config import EngineConfig
from mp13.engine.request import OnProgress
from mp13.engine.training.checkpoints import RunFolder
from mp13.engine.training.config import TrainConfig
from mp13.engine.training.events import EvalDone, Finished, Rehearsal, Saved, StepDone, TrainEvent, TrainingPlan
from mp13.engine.training.process.request import SampleProblem, Started, TrainRequest
from mp13.engine.training.sample import Sample
from mp13.errors import Mp13Error, TrainingError
from mp13.library.data.check import CheckReport, check
from mp13.library.data.problem import DataError, Problem
from mp13.library.data.reading import DataSet
from mp13.library.data.tokens import StagedSamples, staged
from mp13.library.worker import run_worker

JobEvent = Started | TrainEvent
_PROCESS = "mp13.engine.training.process"
_PLAIN: dict[str, type[Any]] = {cls.__name__: cls for cls in (StepDone, EvalDone)}


@dataclass(frozen=True)
class TrainingOrder:
    """What to train, where. `options` are the settings that somebody chose; without `eval_data` samples are held out
    as they say. `processes` share the rows of each step, each on a GPU of its own where there are any."""

    engine: EngineConfig
    base_name: str
    data: Sequence[DataSet]
    eval_data: Sequence[DataSet]
    output: Path
    options: dict[str, Any] = field(default_factory=dict)
    max_len: int | None = None
    resume: bool = False
    dry_run: bool = False
    processes: int = 1


@dataclass(frozen=True)
class Trained:
    """One of both: how the run ended, or of a dry run what a row took."""

    finished: Finished | None
    rehearsal: Rehearsal | None


def check_data(order: TrainingOrder, on_progress: OnProgress) -> CheckReport:
    """What is known of the data without a tokenizer. Raises UnsupportedError."""
    return check(order.data, order.eval_data, None, on_progress)


def train(order: TrainingOrder, on_progress: OnProgress, on_event: Callable[[JobEvent], None]) -> Trained:
    """Train until the run has ended. Blocks. In the main thread, Ctrl+C ends it early and keeps what it has.

    Raises:
        DataError: a sample cannot be rendered or is too long; no model was loaded.
        ConfigError, ModelError, UnsupportedError, TrainingError: as engine/training/process's.
        KeyboardInterrupt: before the first step; nothing is saved.
    """
    with staged(_samples(order.data)) as learned, staged(_samples(order.eval_data)) as held_out, _Interrupt() as stop:
        request = TrainRequest(
            dataclasses.asdict(order.engine), order.base_name, learned.path, held_out.path if order.eval_data else None,
            str(order.output), order.options, order.max_len, order.resume, order.dry_run,
        )  # fmt: skip

        def told(name: str, fields: dict[str, Any]) -> None:
            event = _event(name, fields)
            stop.has_begun = stop.has_begun or isinstance(event, Started)
            on_event(event)

        try:
            report = run_worker(_PROCESS, request, on_progress, told, stop.by, order.processes)
        except Mp13Error as error:
            if type(error) is not Mp13Error:
                raise
            raise TrainingError(_died(order, str(error))) from None
        if problems := [SampleProblem(**problem) for problem in report["problems"]]:
            raise DataError([_placed(problem, learned, held_out) for problem in problems])
    rehearsal = report["rehearsal"]
    return Trained(
        None if report["finished"] is None else _finished(report["finished"]),
        None if rehearsal is None else Rehearsal(**rehearsal),
    )


def _died(order: TrainingOrder, how: str) -> str:
    what = (
        "the process that trained" if order.processes == 1 else f"one of the {order.processes} processes that trained"
    )
    folder = RunFolder(order.output)
    kept = f"the last checkpoint is {folder.last()}" if folder.steps() else "it had saved nothing yet"
    return f"{what} {how.removeprefix(f'the process {_PROCESS} ')}; {kept}"


def _samples(data: Sequence[DataSet]) -> Iterator[Sample]:
    for one in data:
        yield from one.samples()


def _event(name: str, fields: dict[str, Any]) -> JobEvent:
    if name == "Started":
        plan = TrainingPlan(**fields["plan"])
        return Started(plan, TrainConfig.from_json(fields["config"]).to_json(), fields["step"], tuple(fields["notes"]))
    if name == "Saved":
        return Saved(fields["step"], Path(fields["path"]))
    event: JobEvent = _PLAIN[name](**fields)
    return event


def _finished(fields: dict[str, Any]) -> Finished:
    path = fields["path"]
    return Finished(**{**fields, "path": None if path is None else Path(path)})


def _placed(problem: SampleProblem, learned: StagedSamples, held_out: StagedSamples) -> Problem:
    what, _, fix = problem.sentence.partition("; ")
    places = held_out.places if problem.is_eval else learned.places
    return Problem(*places[problem.sample], what, fix or "leave the sample out")


class _Interrupt:
    """While it is entered, the first Ctrl+C after the start asks the run to stop; any other is a KeyboardInterrupt."""

    def __init__(self) -> None:
        self.has_begun = False
        self._stop: Callable[[], None] | None = None
        self._before: Any = None

    def by(self, stop: Callable[[], None]) -> None:
        self._stop = stop

    def __enter__(self) -> "_Interrupt":
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._interrupted)
        return self

    def __exit__(self, *error: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _interrupted(self, *_: object) -> None:
        stop, self._stop = self._stop, None
        if stop is None or not self.has_begun:
            raise KeyboardInterrupt
        stop()
