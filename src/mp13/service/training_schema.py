"""What travels between chat and engine about a training run: what is asked for, how it is, and what it tells. No torch.

The settings are `TrainConfig`'s own names, so that a setting is declared once.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from mp13.engine.training.rendering.request import Loss, RenderReport
from mp13.engine.training.sample import Sample

RunState = Literal["preparing", "running", "paused", "finished", "failed"]
FinishReason = Literal["done", "early stop", "stopped", "cancelled", "parked"]


class TrainingRequest(BaseModel):
    """Train the adapter `name` on the base that is loaded.

    Args:
        data: a source as `mp13 data` takes it, read by the engine's process; its paths are absolute.
        source: what its chat calls the data, for other chats; without it, `data`.
        samples: instead of that, records of one of its formats, such as `{"messages": […]}`.
        eval_data: held out; without it, the setting `eval_split`.
        settings: of `TrainConfig`, by name; what is left out is suggested by model and data.
        output: an absolute path: where the adapter will be, and meanwhile the checkpoints.
        publish_every: steps between two versions `name@step`; None is as often as it is saved.
        resume: go on from the last checkpoint in `output`. The data is to be the same; settings are the run's own.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    output: str
    data: str | None = None
    source: str = ""
    samples: tuple[dict[str, Any], ...] | None = None
    eval_data: str | None = None
    format: str | None = None
    settings: dict[str, Any] = {}
    publish_every: int | None = Field(default=None, ge=1)
    resume: bool = False


class PreviewRequest(BaseModel):
    """What would a run learn of these samples. The answer is a `RenderReport` with the tokens themselves."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    samples: tuple[Sample, ...]
    loss: Loss = "assistant"


class TrainingStatus(BaseModel):
    """A run as it is now."""

    model_config = ConfigDict(frozen=True)
    name: str
    output: str
    state: RunState
    step: int = 0
    total_steps: int = 0  # 0 until it is planned
    loss: float | None = None
    eval_loss: float | None = None
    tokens_per_s: float | None = None
    published: tuple[str, ...] = ()  # versions that a mix may name
    error: str = ""


class PlannedEvent(BaseModel):
    """The run is about to take its first step. Memory and time are those of a row that was tried."""

    type: Literal["planned"] = "planned"
    name: str
    output: str
    total_steps: int
    from_step: int
    num_rows: int
    num_eval_rows: int
    num_tokens: int
    loss_tokens: int
    num_parameters: int
    tokens_per_s: float
    memory_bytes: int
    seconds: float
    settings: dict[str, Any]
    notes: tuple[str, ...] = ()


class StepEvent(BaseModel):
    """`longest_piece_s` is the longest that an answer may have had to wait for the trainer in this step."""

    type: Literal["step"] = "step"
    step: int
    total_steps: int
    loss: float
    lr: float
    grad_norm: float
    tokens: int
    tokens_per_s: float
    memory_bytes: int
    longest_piece_s: float


class EvalEvent(BaseModel):
    type: Literal["eval"] = "eval"
    step: int
    loss: float
    is_best: bool


class SavedEvent(BaseModel):
    """A checkpoint is whole on the disk."""

    type: Literal["checkpoint"] = "checkpoint"
    step: int
    path: str


class PublishedEvent(BaseModel):
    """`name`, such as `pirate@120`, answers from now on. `dropped` are versions that made room."""

    type: Literal["published"] = "published"
    step: int
    name: str
    digest: str
    dropped: tuple[str, ...] = ()


class NoteEvent(BaseModel):
    """Something that did not end the run, such as a version that could not be published."""

    type: Literal["note"] = "note"
    message: str


class StateEvent(BaseModel):
    """It was paused, or goes on."""

    type: Literal["state"] = "state"
    state: RunState


class TrainingFinished(BaseModel):
    """The last event of a run. `path` is the finished adapter, loaded under the run's name; None where it was cancelled
    or parked: then the engine ended, and the run goes on with `resume`."""

    type: Literal["finished"] = "finished"
    reason: FinishReason
    step: int
    path: str | None
    from_step: int
    first_loss: float | None
    last_loss: float | None
    eval_loss: float | None
    tokens: int
    seconds: float


class TrainingFailed(BaseModel):
    """The last event of a run that cannot go on: what was wrong, and which checkpoint is whole."""

    type: Literal["failed"] = "failed"
    code: str
    message: str


TrainingEvent = Annotated[
    PlannedEvent | StepEvent | EvalEvent | SavedEvent | PublishedEvent | NoteEvent | StateEvent | TrainingFinished
    | TrainingFailed,
    Field(discriminator="type"),
]  # fmt: skip
training_events: TypeAdapter[TrainingEvent] = TypeAdapter(TrainingEvent)
render_reports: TypeAdapter[RenderReport] = TypeAdapter(RenderReport)
