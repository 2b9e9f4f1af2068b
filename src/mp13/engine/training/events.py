"""What a training run tells while it goes. Plain data, no torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

FinishReason = Literal["done", "early stop", "stopped", "cancelled"]


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
    """The last event of a run. `path` is the finished adapter, that of step `from_step`; None when it was cancelled."""

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
