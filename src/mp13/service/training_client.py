"""The chat's verbs for the training run of an engine process. No torch."""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Protocol

from pydantic import BaseModel

from mp13.engine.training.rendering.request import RenderReport
from mp13.service.training_schema import (
    PreviewRequest,
    TrainingEvent,
    TrainingFailed,
    TrainingFinished,
    TrainingRequest,
    TrainingStatus,
    render_reports,
    training_events,
)

_PATH = "/training"


class Road(Protocol):
    """How calls travel: `EngineClient`."""

    async def call(self, method: str, path: str, body: BaseModel | None = None) -> bytes: ...
    def stream(
        self, method: str, path: str, read: Callable[[bytes], TrainingEvent], body: BaseModel | None = None
    ) -> AsyncGenerator[TrainingEvent]: ...


class TrainingClient:
    """An engine trains one adapter at a time. Verbs of a run that is not there raise `TrainingError`, and any what
    `EngineClient` raises."""

    def __init__(self, road: Road) -> None:
        self._road = road

    async def preview(self, request: PreviewRequest) -> RenderReport:
        """What a run would learn of samples, token by token. Answers at once, also beside a run."""
        return render_reports.validate_json(await self._road.call("POST", f"{_PATH}/preview", request))

    async def start(self, request: TrainingRequest) -> TrainingStatus:
        """Return once the data is read and the run accepted; the rest is told as events.

        Raises:
            ConfigError, DataError, TrainingError: it cannot run; nothing has changed.
        """
        return TrainingStatus.model_validate_json(await self._road.call("POST", _PATH, request))

    async def status(self) -> TrainingStatus | None:
        """The run that goes, or the last one; None before the first."""
        body = await self._road.call("GET", _PATH)
        return TrainingStatus.model_validate_json(body) if body else None

    async def events(self) -> AsyncGenerator[TrainingEvent]:
        """All events of the run, from its first on, up to the last. Whoever leaves does not disturb it."""
        async with aclosing(self._road.stream("GET", f"{_PATH}/events", training_events.validate_json)) as events:
            async for event in events:
                yield event
                if isinstance(event, TrainingFinished | TrainingFailed):
                    return

    async def pause(self) -> None:
        """Compute no further row until `resume`."""
        await self._road.call("POST", f"{_PATH}/pause")

    async def resume(self) -> None:
        await self._road.call("POST", f"{_PATH}/resume")

    async def stop(self) -> None:
        """End it and keep the adapter of the last whole step."""
        await self._road.call("POST", f"{_PATH}/stop")

    async def cancel(self) -> None:
        """End it and remove what it has saved and published."""
        await self._road.call("POST", f"{_PATH}/cancel")
