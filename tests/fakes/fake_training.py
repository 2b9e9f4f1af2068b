"""The training verbs of an engine client, played by hand: `tell` is what the engine would say next."""

import asyncio
from collections.abc import AsyncGenerator
from types import SimpleNamespace

from mp13.engine.training.rendering.request import Rendered, RenderedSample, RenderProblem, RenderReport
from mp13.engine.training.sample import Sample
from mp13.errors import Mp13Error
from mp13.service.schema import FinishEvent, GenerateRequest
from mp13.service.training_schema import (
    EvalEvent,
    PlannedEvent,
    PreviewRequest,
    PublishedEvent,
    SavedEvent,
    StateEvent,
    StepEvent,
    TrainingEvent,
    TrainingFailed,
    TrainingFinished,
    TrainingRequest,
)


class FakeTraining:
    """`requests` and `verbs` are what was asked of it. `refusal` is raised by the next start. In a preview the token
    that ends an answer carries loss if `learns_end`; `unreadable` says what is wrong with the first sample."""

    client: "FakeTrainingClient"

    def __init__(self) -> None:
        self.requests: list[TrainingRequest] = []
        self.verbs: list[str] = []
        self.refusal: Mp13Error | None = None
        self.learns_end = True
        self.unreadable = ""
        self._events: asyncio.Queue[TrainingEvent | Mp13Error] = asyncio.Queue()

    def tell(self, *events: TrainingEvent | Mp13Error) -> None:
        for event in events:
            self._events.put_nowait(event)

    async def preview(self, request: PreviewRequest) -> RenderReport:
        if self.unreadable:
            return RenderReport((), (RenderProblem(0, self.unreadable),), 100, "0" * 64)
        made = [_rendered(sample, request.loss == "all", self.learns_end) for sample in request.samples]
        return RenderReport(tuple(made), (), 100, "0" * 64, ("this is a note",))

    async def start(self, request: TrainingRequest) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.requests.append(request)

    async def events(self) -> AsyncGenerator[TrainingEvent]:
        while True:
            event = await self._events.get()
            if isinstance(event, Mp13Error):
                raise event
            yield event
            if isinstance(event, TrainingFinished | TrainingFailed):
                return

    async def pause(self) -> None:
        self._did("pause", StateEvent(state="paused"))

    async def resume(self) -> None:
        self._did("resume", StateEvent(state="running"))

    async def stop(self) -> None:
        self._did("stop", finished("stopped"))

    async def cancel(self) -> None:
        self._did("cancel", finished("cancelled", path=None))

    def _did(self, verb: str, event: TrainingEvent) -> None:
        self.verbs.append(verb)
        self.tell(event)


class FakeTrainingClient:
    """Trains and answers: "MIX answers PROMPT"."""

    def __init__(self) -> None:
        self.training = FakeTraining()
        self.training.client = self
        self.is_closed = False

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[FinishEvent]:
        said = f"{request.adapters} answers {request.messages[-1].content}"
        yield FinishEvent.model_construct(**vars(SimpleNamespace(text=said)))

    async def close(self) -> None:
        pass


def _rendered(sample: Sample, learns_all: bool, learns_end: bool) -> RenderedSample:
    """A token a message, between tokens of a template."""
    texts, mask = [], []
    for message in sample.messages:
        is_answer = message.role == "assistant"
        texts += [f"<|{message.role}|>", message.content, "<|end|>", "\n"]
        mask += [False, is_answer, is_answer and learns_end, False]
    mask = [False, *[True] * (len(mask) - 1)] if learns_all else mask
    ids = tuple(range(len(texts)))
    return RenderedSample((len(ids),), sum(mask), (Rendered(ids, tuple(mask), tuple(texts)),))


def planned(total: int = 40) -> PlannedEvent:
    return PlannedEvent(
        name="butler", output="/x/butler", total_steps=total, from_step=0, num_rows=2, num_eval_rows=0, num_tokens=100,
        loss_tokens=40, num_parameters=1000, tokens_per_s=200.0, memory_bytes=1_200_000_000, seconds=60.0, settings={},
    )  # fmt: skip


def step(number: int, loss: float, total: int = 40) -> StepEvent:
    return StepEvent(
        step=number, total_steps=total, loss=loss, lr=1e-3, grad_norm=1.0, tokens=100 * number, tokens_per_s=200.0,
        memory_bytes=1_200_000_000, longest_piece_s=0.02,
    )  # fmt: skip


def evaluated(number: int, loss: float) -> EvalEvent:
    return EvalEvent(step=number, loss=loss, is_best=True)


def saved(number: int, path: str) -> SavedEvent:
    return SavedEvent(step=number, path=path)


def published(number: int) -> PublishedEvent:
    return PublishedEvent(step=number, name=f"butler@{number}", digest="0" * 64)


def finished(reason: str = "done", path: str | None = "/data/adapters/butler") -> TrainingFinished:
    return TrainingFinished.model_validate(
        {"reason": reason, "step": 40, "path": path, "from_step": 40, "first_loss": 3.0, "last_loss": 0.5,
         "eval_loss": None, "tokens": 4000, "seconds": 20.0}
    )  # fmt: skip
