"""What the engine's process asks of `AsyncEngine`, which it imports by its name: reading torch takes seconds."""

from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any, Literal, Protocol

from mp13.engine import request as engine_request
from mp13.engine.training.events import RunEvent, RunState
from mp13.engine.training.job import TrainingJob
from mp13.engine.training.rendering.request import Loss, RenderReport
from mp13.engine.training.sample import Sample
from mp13.service.provenance import EngineDescription
from mp13.service.schema import AdapterInfo, CountReport, KVPolicy, SamplingParams, TokenScore

TrainingVerb = Literal["pause", "go_on", "stop", "cancel", "park"]
Messages = list[dict[str, Any]]
AnswerEvents = AsyncGenerator[engine_request.TokenEvent | engine_request.FinishEvent]
EngineEvents = AsyncGenerator[tuple[int, engine_request.TokenEvent | engine_request.FinishEvent]]


class Scored(Protocol):
    """An answer as several mixes judge it: `ScoredAnswer` of the engine."""

    token_ids: Sequence[int]
    texts: Sequence[str]
    scores: Sequence[Sequence[TokenScore]]
    best_texts: Sequence[Sequence[str]]


class Run(Protocol):
    """A training run: `TrainingRun` of the engine."""

    job: TrainingJob
    published: list[str]
    state: RunState

    @property
    def is_over(self) -> bool: ...


class Engine(Protocol):
    """What the process asks of `AsyncEngine`."""

    info: EngineDescription
    adapters: list[AdapterInfo]

    def generate(
        self, prompt: Messages, params: SamplingParams, adapters: str, *, kv_policy: KVPolicy | None
    ) -> AnswerEvents: ...
    def compare(
        self, prompt: Messages, params: SamplingParams, mixes: Sequence[str], *, kv_policy: KVPolicy | None
    ) -> EngineEvents: ...
    def output_so_far(self, request_id: str) -> engine_request.RequestOutput | None: ...
    async def prefill(self, prompt: Messages, adapters: str) -> object: ...
    async def count(self, prompt: Messages, adapters: str) -> CountReport: ...
    async def score_details(
        self, prompt: Messages | str | None, answer: list[int] | str, mixes: Sequence[str]
    ) -> Scored: ...
    async def load_adapter(self, path: str, name: str | None) -> AdapterInfo: ...
    async def unload_adapter(self, name: str) -> None: ...
    def check(self, **settings: Any) -> None: ...
    async def preview_training(self, samples: Sequence[Sample], loss: Loss) -> RenderReport: ...
    async def start_training(self, job: TrainingJob, on_event: Callable[[RunEvent], None]) -> Run: ...
    async def steer_training(self, verb: TrainingVerb) -> None: ...
    async def close(self) -> None: ...
