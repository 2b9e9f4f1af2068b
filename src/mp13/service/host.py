"""The engine inside its process: loads it in a thread, tells its life as events, and answers with it.

HTTP is app's, and when the process ends is for the leases to say. The engine is imported here by its name, when the
process already listens, since reading torch takes seconds.
"""

import asyncio
import logging
import os
import pkgutil
import threading
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from dataclasses import asdict

from mp13.engine import request as engine_request
from mp13.engine.training.rendering.request import RenderReport
from mp13.errors import ModelError, Mp13Error
from mp13.library.effects import remember_effects
from mp13.service.endpoint import Launch
from mp13.service.engine_protocol import AnswerEvents, Engine, EngineEvents, Messages, TrainingVerb
from mp13.service.health import health_of
from mp13.service.lease import Leases
from mp13.service.news import News
from mp13.service.parent import outlive_parent
from mp13.service.provenance import compose
from mp13.service.schema import (
    AdapterInfo,
    AdaptersEvent,
    BusyEvent,
    CheckRequest,
    CompareRequest,
    CountReport,
    CountRequest,
    Done,
    EngineEvent,
    EngineInfo,
    FinishEvent,
    GenerateRequest,
    Health,
    LoadAdapterRequest,
    LoadEvent,
    Message,
    PrefillRequest,
    Provenance,
    ReadyEvent,
    SamplingParams,
    ScoreReport,
    ScoreRequest,
    StartedEvent,
    TokenEvent,
)
from mp13.service.streaming import failed_event
from mp13.service.training_host import TrainingHost
from mp13.service.training_schema import PreviewRequest, TrainingRequest, TrainingStatus

log = logging.getLogger(__name__)
_PROGRESS_S = 0.05  # between two load events of one stage
_HASH_S = 0.05  # a first token waits this long at most for the base's digest, which its provenance needs


class EngineHost:
    """One engine and what is known of it. To be used on the event loop that made it."""

    def __init__(self, launch: Launch) -> None:
        self.leases = Leases()
        self.news = News()
        self.training = TrainingHost(self.news.tell)
        self._launch = launch
        self._loop = asyncio.get_running_loop()
        self._engine: asyncio.Future[Engine] = self._loop.create_future()
        self._started = time.monotonic()
        self._last_progress = ("", 0.0)  # stage, time
        self._remembered: dict[str, float] = {}  # effects by digest
        self.news.tell(LoadEvent(stage="starting the engine"))
        threading.Thread(target=self._load, daemon=True).start()

    @property
    def health(self) -> Health:
        health = health_of(self._launch.config, self.news, self.leases.num_holders, time.monotonic() - self._started)
        return self.training.shown_in(health)

    async def events(self, chat: str) -> AsyncGenerator[EngineEvent]:
        """The present state, then each change, up to the end of the process. Holds a lease of `chat`."""
        with self.leases.hold(chat):
            if self.leases.num_holders > 1:
                outlive_parent()
            async with aclosing(self.news.follow()) as events:
                async for event in events:
                    yield event

    def answer(self, request: GenerateRequest) -> AsyncGenerator[StartedEvent | TokenEvent | FinishEvent]:
        """The answer with its provenance. Closing the iterator aborts it."""
        prompt, policy = _prompt(request.messages), request.kv_policy
        return self._tell(
            request.sampling,
            lambda engine: _alone(engine.generate(prompt, request.sampling, request.adapters, kv_policy=policy)),
        )

    def compare(self, request: CompareRequest) -> AsyncGenerator[StartedEvent | TokenEvent | FinishEvent]:
        """The answers of all mixes as they come, each with its provenance. Closing the iterator aborts them."""
        prompt, policy = _prompt(request.messages), request.kv_policy
        return self._tell(
            request.sampling,
            lambda engine: engine.compare(prompt, request.sampling, request.mixes, kv_policy=policy),
        )

    async def prefill(self, request: PrefillRequest) -> AsyncGenerator[Done]:
        """Closing the iterator ends it."""
        engine = await self._ready()
        await engine.prefill(_prompt(request.messages), request.adapters)
        yield Done()

    async def score(self, request: ScoreRequest) -> AsyncGenerator[ScoreReport]:
        """Closing the iterator ends it."""
        engine = await self._ready()
        prompt = _prompt(request.prompt) if isinstance(request.prompt, tuple) else request.prompt
        answer = request.answer if isinstance(request.answer, str) else list(request.answer)
        scored = await engine.score_details(prompt, answer, request.mixes)
        yield ScoreReport(
            token_ids=tuple(scored.token_ids),
            texts=tuple(scored.texts),
            scores=tuple(map(tuple, scored.scores)),
            best_texts=tuple(map(tuple, scored.best_texts)),
        )

    async def count(self, request: CountRequest) -> CountReport:
        engine = await self._ready()
        return await engine.count(_prompt(request.messages), request.adapters)

    async def adapters(self) -> list[AdapterInfo]:
        return (await self._ready()).adapters

    async def load_adapter(self, request: LoadAdapterRequest) -> AdapterInfo:
        engine = await self._ready()
        info = await engine.load_adapter(request.path, request.name)
        self._publish_adapters(engine)
        return info

    async def unload_adapter(self, name: str) -> None:
        engine = await self._ready()
        await engine.unload_adapter(name)
        self._publish_adapters(engine)

    async def check(self, request: CheckRequest) -> None:
        """Raises what an engine with those settings would, as far as this one can tell."""
        engine = await self._ready()
        await asyncio.to_thread(engine.check, **asdict(request.config))

    async def preview_training(self, request: PreviewRequest) -> RenderReport:
        return await (await self._ready()).preview_training(request.samples, request.loss)

    async def start_training(self, request: TrainingRequest) -> TrainingStatus:
        return await self.training.start(await self._ready(), request)

    async def steer_training(self, verb: TrainingVerb) -> None:
        await (await self._ready()).steer_training(verb)

    async def park_training(self) -> None:
        if self._is_up:
            await self.training.park(self._engine.result())

    async def close(self) -> None:
        """End the engine if it came up. A load that still runs cannot be stopped: the process must end over it."""
        if self._is_up:
            await self._engine.result().close()

    async def _tell(
        self, sampling: SamplingParams, ask: Callable[[Engine], EngineEvents]
    ) -> AsyncGenerator[StartedEvent | TokenEvent | FinishEvent]:
        engine = await self._ready()
        started: dict[int, asyncio.Task[Provenance] | None] = {}  # by answer; None once it is told
        async with aclosing(ask(engine)) as events:
            try:
                async for index, event in events:
                    if isinstance(event, engine_request.FinishEvent):
                        yield _finish(index, event.output, await self._provenance(engine, sampling, event.output))
                        continue
                    if index not in started and (output := engine.output_so_far(event.request_id)) is not None:
                        composing = asyncio.create_task(self._provenance(engine, sampling, output))
                        started[index] = composing
                        await asyncio.wait({composing}, timeout=_HASH_S)
                    if (known := started.get(index)) is not None and known.done() and not known.exception():
                        started[index] = None
                        yield StartedEvent(index=index, provenance=known.result())
                    yield TokenEvent(index=index, token_id=event.token_id, text=event.text)
            finally:
                for waiting in filter(None, started.values()):
                    waiting.cancel()

    async def _provenance(
        self, engine: Engine, sampling: SamplingParams, output: engine_request.RequestOutput
    ) -> Provenance:
        return await asyncio.to_thread(compose, engine.info, engine.adapters, sampling, output)

    @property
    def _is_up(self) -> bool:
        return self._engine.done() and not self._engine.exception()

    async def _ready(self) -> Engine:
        return await asyncio.shield(self._engine)

    def _load(self) -> None:
        """In its own thread."""
        try:
            factory = pkgutil.resolve_name(self._launch.engine)
            engine = factory(
                **asdict(self._launch.config),
                on_progress=self._progress,
                on_adapters=self._adapters_changed,
                on_activity=self._activity_changed,
            )
        except Mp13Error as error:
            self._loop.call_soon_threadsafe(self._failed, error)
        except BaseException as error:
            log.exception("the model could not be loaded")
            reason = f"{self._launch.config.model} could not be loaded ({type(error).__name__}: {error})"
            self._loop.call_soon_threadsafe(self._failed, ModelError(f"{reason}; the engine's log has more"))
        else:
            self._loop.call_soon_threadsafe(self._loaded, engine)

    def _progress(self, stage: str, fraction: float | None) -> None:
        """Called by the engine in the loading thread, maybe once a tensor."""
        last_stage, last_time = self._last_progress
        if stage != last_stage or time.monotonic() - last_time >= _PROGRESS_S:
            self._last_progress = (stage, time.monotonic())
            self._loop.call_soon_threadsafe(self.news.tell, LoadEvent(stage=stage, fraction=fraction))

    def _adapters_changed(self) -> None:
        """Called by the engine in its own thread, when it has measured or moved an adapter."""
        with suppress(RuntimeError):  # the loop is closed: nobody listens any more
            self._loop.call_soon_threadsafe(self._publish_adapters, None)

    def _activity_changed(self, activity: engine_request.Activity) -> None:
        """As `_adapters_changed`, when another number of requests runs or waits."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(
                self.news.tell_busy, BusyEvent(running=activity.running, waiting=activity.waiting)
            )

    def _publish_adapters(self, engine: Engine | None) -> None:
        """Tell what `engine` (None: ours, if it is up) has loaded, where that is not what was told last."""
        if engine is None and not self._is_up:
            return
        event = AdaptersEvent(adapters=(engine or self._engine.result()).adapters)
        if event != self.news.latest(AdaptersEvent):
            self.news.tell(event)
            self._remember_effects(engine or self._engine.result())

    def _remember_effects(self, engine: Engine) -> None:
        """Keep what was newly measured for the lists of days without an engine; in a thread: the base's digest may
        still be on its way."""
        measured = {info.digest: info.effect for info in engine.adapters if info.effect is not None}
        new = {digest: effect for digest, effect in measured.items() if self._remembered.get(digest) != effect}
        self._remembered |= new

        def remember() -> None:
            with suppress(OSError, Mp13Error):  # the base cannot be hashed: there is no telling whose effects they are
                remember_effects(engine.info.base_digest, new)

        if new:
            threading.Thread(target=remember, daemon=True).start()

    def _loaded(self, engine: Engine) -> None:
        self._engine.set_result(engine)
        described = {name: getattr(engine.info, name) for name in EngineInfo.model_fields if name != "pid"}
        outlive_parent()
        self.news.tell(ReadyEvent(engine=EngineInfo(**described, pid=os.getpid())))
        self._publish_adapters(engine)

    def _failed(self, error: Mp13Error) -> None:
        self._engine.set_exception(error)
        self._engine.exception()  # nobody may be waiting for it
        outlive_parent()
        self.news.tell(failed_event(error))


def _prompt(messages: tuple[Message, ...]) -> Messages:
    return [message.model_dump(exclude_none=True) for message in messages]


async def _alone(events: AnswerEvents) -> EngineEvents:
    """The events of one answer, as those of a comparison of one."""
    async with aclosing(events) as one:
        async for event in one:
            yield 0, event


def _finish(index: int, output: engine_request.RequestOutput, provenance: Provenance) -> FinishEvent:
    return FinishEvent(
        index=index,
        text=output.text,
        token_ids=output.token_ids,
        finish_reason=output.finish_reason,
        adapters=output.adapters,
        metrics=output.metrics,
        provenance=provenance,
    )
