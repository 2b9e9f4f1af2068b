"""What is asked of a training run, and what comes of it. Plain data, no torch: the library hands it to a process of its
own."""

from dataclasses import dataclass
from typing import Any

from mp13.engine.training.events import Finished, Rehearsal, TrainingPlan


@dataclass(frozen=True)
class TrainRequest:
    """Train an adapter of the samples in the file `rows`, a line each as `Sample.to_line` writes it.

    Args:
        engine: the fields of the EngineConfig that the base is loaded with.
        base_name: what the adapter's files call the base.
        eval_rows: samples to evaluate by; None holds out `eval_split` of the others.
        output: where the adapter will be, and meanwhile the checkpoints.
        options: the fields of TrainConfig that somebody chose; the others are suggested.
        max_len: the longest sample, in tokens; None is the model's context.
        resume: go on from the last checkpoint in `output`.
        dry_run: try a row, and train nothing.
    """

    engine: dict[str, Any]
    base_name: str
    rows: str
    eval_rows: str | None
    output: str
    options: dict[str, Any]
    max_len: int | None = None
    resume: bool = False
    dry_run: bool = False


@dataclass(frozen=True)
class Started:
    """The first event: what the run will be. `config` are the fields of its TrainConfig, `step` those that are done."""

    plan: TrainingPlan
    config: dict[str, Any]
    step: int
    notes: tuple[str, ...]


@dataclass(frozen=True)
class SampleProblem:
    """Why the sample of this number, counted from 0, cannot be used: a sentence with what to do."""

    is_eval: bool
    sample: int
    sentence: str


@dataclass(frozen=True)
class TrainReport:
    """With problems nothing was trained, and no model loaded; with `rehearsal` it was a dry run."""

    problems: tuple[SampleProblem, ...] = ()
    finished: Finished | None = None
    rehearsal: Rehearsal | None = None
