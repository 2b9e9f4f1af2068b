"""What a training run tells while it goes. Plain data, no torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mp13.engine.training.config import TrainConfig

FinishReason = Literal["done", "early stop", "stopped", "cancelled", "parked"]
RunState = Literal["preparing", "running", "paused", "finished", "failed"]


@dataclass(frozen=True)
class TrainingPlan:
    """What a run will be. `num_tokens` are those of one epoch, `loss_tokens` of them carry loss; `trained_bytes` is
    what adapter, gradient and optimizer take beside the model."""

    num_rows: int
    num_eval_rows: int
    num_silent_rows: int  # left out: they carry no loss
    num_tokens: int
    loss_tokens: int
    packs_per_epoch: int
    steps_per_epoch: int
    total_steps: int
    num_parameters: int
    trained_bytes: int


@dataclass(frozen=True)
class Rehearsal:
    """What a row took when it was tried. `seconds` are those that the whole run would take at that speed, without
    evaluations."""

    tokens_per_s: float
    memory_bytes: int
    seconds: float


@dataclass(frozen=True)
class StepDone:
    """An optimizer step. `loss` is the mean over its loss tokens, `tokens` counts all of the run so far. The speed is
    that of the run's own time, without what others had of the model meanwhile. `memory_bytes` is the most that was in
    use: on a GPU by torch, else by the process."""

    step: int
    total_steps: int
    loss: float
    lr: float
    grad_norm: float
    tokens: int
    tokens_per_s: float
    memory_bytes: int
    longest_piece_s: float = 0.0  # between two boundaries at which others had the model; known beside an engine


@dataclass(frozen=True)
class EvalDone:
    step: int
    loss: float
    is_best: bool


@dataclass(frozen=True)
class Saved:
    """A checkpoint is whole on the disk: a PEFT folder that can be loaded."""

    step: int
    path: Path


@dataclass(frozen=True)
class Finished:
    """The last event of a run. `path` is the finished adapter, that of step `from_step`; None when it was
    cancelled, or parked to be resumed."""

    reason: FinishReason
    step: int
    path: Path | None
    from_step: int
    first_loss: float | None
    last_loss: float | None
    eval_loss: float | None  # of the adapter in `path`, where it was evaluated
    tokens: int
    seconds: float


TrainEvent = StepDone | EvalDone | Saved | Finished


@dataclass(frozen=True)
class Planned:
    """A run inside an engine begins, from step `from_step` on."""

    name: str
    output: Path
    plan: TrainingPlan
    rehearsal: Rehearsal
    from_step: int
    config: TrainConfig


@dataclass(frozen=True)
class Published:
    """The version `name` answers from now on; `dropped` made room for it."""

    step: int
    name: str
    digest: str
    dropped: tuple[str, ...]


@dataclass(frozen=True)
class Note:
    """What did not end the run."""

    message: str


@dataclass(frozen=True)
class StateChanged:
    state: RunState


@dataclass(frozen=True)
class Failed:
    """The last event of a run that cannot go on. `code` is a class name of mp13.errors."""

    code: str
    message: str


RunEvent = TrainEvent | Planned | Published | Note | StateChanged | Failed
