"""How a training run of the chat stands, by the engine's events: for status line, screen and `/train status`."""

from dataclasses import asdict, dataclass, field, replace
from typing import Any

from mp13.service.training_schema import (
    EvalEvent,
    FinishReason,
    NoteEvent,
    PlannedEvent,
    PublishedEvent,
    RunState,
    SavedEvent,
    StateEvent,
    StepEvent,
    TrainingEvent,
    TrainingFailed,
    TrainingFinished,
)


@dataclass(frozen=True)
class Sample:
    """A fixed prompt, what the base says to it, and what the adapter of `step` does."""

    prompt: str
    base: str = ""
    learned: str = ""
    step: int = 0


@dataclass(frozen=True)
class TrainingState:
    """`losses` are (step, loss, learning rate), `evals` (step, loss). `sentence` says how it ended. One that
    `is_of_another` chat has no samples, and "" for its source where that chat did not say."""

    name: str
    source: str
    output: str
    model: str
    samples: tuple[Sample, ...] = ()
    eval_data: str | None = None
    format: str | None = None
    is_of_another: bool = False
    phase: RunState = "preparing"
    step: int = 0
    total_steps: int = 0
    losses: tuple[tuple[int, float, float], ...] = ()
    evals: tuple[tuple[int, float], ...] = ()
    tokens: int = 0
    tokens_per_s: float | None = None
    tokens_a_step: float | None = None
    memory_bytes: int | None = None
    versions: tuple[str, ...] = ()
    checkpoint: str = ""
    notes: tuple[str, ...] = ()
    sentence: str = ""
    reason: FinishReason | None = None  # of its end, where it did not fail
    settings: dict[str, Any] = field(default_factory=dict)
    _from: tuple[int, int] | None = None  # step and tokens of the first step that this chat saw

    def after(self, event: TrainingEvent) -> "TrainingState":
        match event:
            case PlannedEvent():
                return replace(
                    self, phase="running" if self.phase == "preparing" else self.phase, step=event.from_step,
                    total_steps=event.total_steps, settings=event.settings, tokens_per_s=event.tokens_per_s,
                    memory_bytes=event.memory_bytes, notes=(*self.notes, *event.notes),
                )  # fmt: skip
            case StepEvent():
                return self._stepped(event)
            case EvalEvent():
                return replace(self, evals=(*self.evals, (event.step, event.loss)))
            case SavedEvent():
                return replace(self, checkpoint=event.path)
            case PublishedEvent():
                kept = tuple(name for name in self.versions if name not in event.dropped)
                return replace(self, versions=(*kept, event.name))
            case NoteEvent():
                return replace(self, notes=(*self.notes, event.message))
            case StateEvent():
                return replace(self, phase=event.state)
            case TrainingFinished():
                return replace(self, phase="finished", reason=event.reason, step=event.step)
            case TrainingFailed():
                return replace(self, phase="failed")

    def _stepped(self, event: StepEvent) -> "TrainingState":
        first = self._from or (event.step, event.tokens)
        each = (event.tokens - first[1]) / (event.step - first[0]) if event.step > first[0] else None
        return replace(
            self, step=event.step, total_steps=event.total_steps, tokens=event.tokens,
            losses=(*self.losses, (event.step, event.loss, event.lr)), tokens_per_s=event.tokens_per_s,
            memory_bytes=event.memory_bytes, tokens_a_step=each or self.tokens_a_step, _from=first,
        )  # fmt: skip

    @property
    def loss(self) -> float | None:
        return self.losses[-1][1] if self.losses else None

    @property
    def seconds_left(self) -> float | None:
        """At the speed of now; None until that is known."""
        if not self.tokens_per_s or not self.tokens_a_step:
            return None
        return (self.total_steps - self.step) * self.tokens_a_step / self.tokens_per_s

    @property
    def short(self) -> str:
        """As the status line has it."""
        verb = {"paused": "paused", "preparing": "preparing"}.get(self.phase, "training")
        count = f" {self.step}/{self.total_steps}" if self.total_steps else ""
        loss = f" · loss {self.loss:.2f}" if self.loss is not None else ""
        return f"{verb} {self.name}{count}{loss}"

    @property
    def json(self) -> dict[str, Any]:
        fields = {key: value for key, value in asdict(self).items() if key != "_from"}
        return fields | {"loss": self.loss, "seconds_left": self.seconds_left}
