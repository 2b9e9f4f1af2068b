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
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import asdict
from typing import Any, Literal, Protocol

from mp13.engine import request as engine_request
from mp13.errors import ModelError, Mp13Error
from mp13.service.endpoint import Launch
from mp13.service.lease import Leases
from mp13.service.provenance import EngineDescription, compose
from mp13.service.schema import (
    AdapterInfo,
    AdaptersEvent,
    EngineEvent,
    EngineInfo,
    FinishEvent,
    GenerateRequest,
    Health,
    LoadAdapterRequest,
    LoadEvent,
    Provenance,
    ReadyEvent,
    SamplingParams,
    TokenEvent,
)
from mp13.service.streaming import failed_event

log = logging.getLogger(__name__)
_PROGRESS_S = 0.05  # between two load events of one stage


class Engine(Protocol):
    """What the process asks of `AsyncEngine`."""

    info: EngineDescription
    adapters: list[AdapterInfo]

    def generate(
        self, prompt: list[dict[str, Any]], params: SamplingParams, adapters: str
    ) -> AsyncGenerator[engine_request.TokenEvent | engine_request.FinishEvent]: ...
    async def load_adapter(self, path: str, name: str | None) -> AdapterInfo: ...
    async def unload_adapter(self, name: str) -> None: ...
    async def close(self) -> None: ...


class EngineHost:
    """One engine and what is known of it. To be used on the event loop that made it."""

    def __init__(self, launch: Launch) -> None:
        self.leases = Leases()
        self._launch = launch
        self._loop = asyncio.get_running_loop()
        self._engine: asyncio.Future[Engine] = self._loop.create_future()
        self._state: dict[str, EngineEvent] = {}  # the latest event of each type, in the order in which types came
        self._changed = asyncio.Event()
        self._publish(LoadEvent(stage="starting the engine"))
        self._last_progress = ("", 0.0)  # stage, time
        threading.Thread(target=self._load, daemon=True).start()

    @property
    def health(self) -> Health:
        status: Literal["loading", "ready", "failed"] = (
            "failed" if "failed" in self._state else "ready" if self._engine.done() else "loading"
        )
        return Health(status=status, pid=os.getpid())

    async def events(self) -> AsyncGenerator[EngineEvent]:
        """The present state, then each change; a slow reader misses nothing but what is out of date. Holds a lease."""
        with self.leases.hold():
            told: dict[str, EngineEvent] = {}
            while True:
                changed = self._changed
                for kind, event in list(self._state.items()):
                    if told.get(kind) is not event:
                        told[kind] = event
                        yield event
                await changed.wait()

    async def answer(self, request: GenerateRequest) -> AsyncGenerator[TokenEvent | FinishEvent]:
        """The answer with its provenance. Closing the iterator aborts it."""
        engine = await self._ready()
        prompt = [message.model_dump(exclude_none=True) for message in request.messages]
        async with aclosing(engine.generate(prompt, request.sampling, adapters=request.adapters)) as events:
            async for event in events:
                if isinstance(event, engine_request.TokenEvent):
                    yield TokenEvent(token_id=event.token_id, text=event.text)
                else:
                    provenance = await asyncio.to_thread(
                        compose, engine.info, self._launch.config, request.sampling, event.output
                    )
                    yield _finish(event.output, provenance)

    async def adapters(self) -> list[AdapterInfo]:
        return (await self._ready()).adapters

    async def load_adapter(self, request: LoadAdapterRequest) -> AdapterInfo:
        engine = await self._ready()
        info = await engine.load_adapter(request.path, request.name)
        self._publish(AdaptersEvent(adapters=engine.adapters))
        return info

    async def unload_adapter(self, name: str) -> None:
        engine = await self._ready()
        await engine.unload_adapter(name)
        self._publish(AdaptersEvent(adapters=engine.adapters))

    async def close(self) -> None:
        """End the engine if it came up. A load that still runs cannot be stopped: the process must end over it."""
        if self.health.status == "ready":
            await self._engine.result().close()

    async def _ready(self) -> Engine:
        return await asyncio.shield(self._engine)

    def _publish(self, event: EngineEvent) -> None:
        self._state[event.type] = event
        self._changed.set()
        self._changed = asyncio.Event()

    def _load(self) -> None:
        """In its own thread."""
        try:
            factory = pkgutil.resolve_name(self._launch.engine)
            engine = factory(**asdict(self._launch.config), on_progress=self._progress)
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
            self._loop.call_soon_threadsafe(self._publish, LoadEvent(stage=stage, fraction=fraction))

    def _loaded(self, engine: Engine) -> None:
        self._engine.set_result(engine)
        described = {name: getattr(engine.info, name) for name in EngineInfo.model_fields if name != "pid"}
        self._publish(ReadyEvent(engine=EngineInfo(**described, pid=os.getpid())))
        self._publish(AdaptersEvent(adapters=engine.adapters))

    def _failed(self, error: Mp13Error) -> None:
        self._engine.set_exception(error)
        self._engine.exception()  # nobody may be waiting for it
        self._publish(failed_event(error))


def _finish(output: engine_request.RequestOutput, provenance: Provenance) -> FinishEvent:
    return FinishEvent(
        text=output.text,
        token_ids=output.token_ids,
        finish_reason=output.finish_reason,
        adapters=output.adapters,
        metrics=output.metrics,
        provenance=provenance,
    )
