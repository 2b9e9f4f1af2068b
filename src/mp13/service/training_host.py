"""The training run of an engine process: takes what a chat asks, keeps what the run tells, and hands it to any reader.

Reading the data is the library's, training the engine's.
"""

import asyncio
import json
import logging
import tempfile
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mp13.engine.training import events as told
from mp13.engine.training.job import TrainingJob
from mp13.errors import ConfigError, TrainingError
from mp13.library.data.reading import DataSet
from mp13.service.engine_protocol import Engine, Run
from mp13.service.schema import Health, TrainingNews
from mp13.service.training_schema import (
    EvalEvent,
    NoteEvent,
    PlannedEvent,
    PublishedEvent,
    SavedEvent,
    StateEvent,
    StepEvent,
    TrainingEvent,
    TrainingFailed,
    TrainingFinished,
    TrainingRequest,
    TrainingStatus,
)

log = logging.getLogger(__name__)


class TrainingHost:
    """To be used on the event loop that made it.

    Args:
        tell: called when a run begins and when it is over, for all chats.
    """

    def __init__(self, tell: Callable[[TrainingNews], None]) -> None:
        self._tell = tell
        self._loop = asyncio.get_running_loop()
        self._run: Run | None = None
        self._events: list[TrainingEvent] = []
        self._changed = asyncio.Event()
        self._starting = asyncio.Lock()

    async def start(self, engine: Engine, request: TrainingRequest) -> TrainingStatus:
        """Raises ConfigError, DataError, TrainingError: it cannot run; nothing has changed."""
        async with self._starting:
            if self._run is not None and not self._run.is_over:
                raise TrainingError(f"{self._run.job.name!r} is being trained; stop it, or wait for its end")
            job = await asyncio.to_thread(_job, request)
            events: list[TrainingEvent] = []

            def take(event: told.RunEvent) -> None:
                with suppress(RuntimeError):  # the loop is closed: nobody listens any more
                    self._loop.call_soon_threadsafe(self._take, events, travelling(event))

            self._run = await engine.start_training(job, take)
            self._events = events
            self._wake()
            if self.is_on:
                self._tell(_news(request))
            return self._status(self._run)

    @property
    def status(self) -> TrainingStatus | None:
        return None if self._run is None else self._status(self._run)

    @property
    def is_on(self) -> bool:
        return self._run is not None and not self._run.is_over

    def shown_in(self, health: Health) -> Health:
        if (run := self.status) is None or not self.is_on:
            return health
        told = {"training": run.name, "training_step": run.step, "training_steps": run.total_steps}
        return health.model_copy(update=told)

    async def park(self, engine: Engine) -> None:
        """Have a run save its last whole step, so that it can be resumed; returns when it is on the disk."""
        if self._run is None or self._run.is_over:
            return
        with suppress(TrainingError):  # it has ended just now
            await engine.steer_training("park")
        while self.is_on:
            await asyncio.sleep(0.01)
        log.info("the training of %r is saved in %s and can be resumed", self._run.job.name, self._run.job.output)

    async def events(self) -> AsyncGenerator[TrainingEvent]:
        """Of the run that goes or went last, from its first event to its last. Raises TrainingError before any."""
        if self._run is None:
            raise TrainingError("nothing is being trained; start a run")
        events, place = self._events, 0
        while True:
            changed = self._changed
            for event in events[place:]:
                place += 1
                yield event
                if isinstance(event, TrainingFinished | TrainingFailed):
                    return
            if place == len(events):
                await changed.wait()

    def _take(self, events: list[TrainingEvent], event: TrainingEvent) -> None:
        events.append(event)
        self._wake()
        if isinstance(event, TrainingFinished | TrainingFailed):
            self._tell(TrainingNews(name=""))

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _status(self, run: Run) -> TrainingStatus:
        fields: dict[str, Any] = {}
        for event in self._events:
            if isinstance(event, PlannedEvent):
                fields |= {"step": event.from_step, "total_steps": event.total_steps}
            elif isinstance(event, StepEvent):
                fields |= {"step": event.step, "loss": event.loss, "tokens_per_s": event.tokens_per_s}
            elif isinstance(event, EvalEvent):
                fields["eval_loss"] = event.loss
            elif isinstance(event, TrainingFailed):
                fields["error"] = event.message
        published = tuple(run.published)
        return TrainingStatus(
            name=run.job.name, output=str(run.job.output), state=run.state, published=published, **fields
        )


def _news(request: TrainingRequest) -> TrainingNews:
    return TrainingNews(
        name=request.name, output=request.output, source=request.source or request.data or "",
        eval_data=request.eval_data, format=request.format,
    )  # fmt: skip


def _job(request: TrainingRequest) -> TrainingJob:
    if (request.data is None) == (request.samples is None):
        raise ConfigError("a run needs either data or samples; give one of them")
    if not Path(request.output).is_absolute():
        raise ConfigError(f"output = {request.output!r} is no absolute path; give one")

    with tempfile.TemporaryDirectory(prefix="mp13-") as folder:  # what was sent is read and checked like a file
        source = request.data
        if source is None:
            sent = Path(folder) / "samples.jsonl"
            sent.write_text("".join(json.dumps(record) + "\n" for record in request.samples or ()), encoding="utf-8")
            source = str(sent)
        samples = list(DataSet(source, request.format).samples())
    held_out = None if request.eval_data is None else list(DataSet(request.eval_data, request.format).samples())
    return TrainingJob(
        request.name, Path(request.output), samples, held_out, request.settings, request.publish_every, request.resume
    )


def travelling(event: told.RunEvent) -> TrainingEvent:
    """The engine's event as it travels."""
    match event:
        case told.Planned(plan=plan, rehearsal=rehearsal):
            figures = asdict(plan) | asdict(rehearsal)
            wanted = {name: value for name, value in figures.items() if name in PlannedEvent.model_fields}
            return PlannedEvent(
                name=event.name, output=str(event.output), from_step=event.from_step,
                settings=event.config.to_json(), **wanted,
            )  # fmt: skip
        case told.StepDone():
            return StepEvent(**asdict(event))
        case told.EvalDone():
            return EvalEvent(**asdict(event))
        case told.Saved():
            return SavedEvent(step=event.step, path=str(event.path))
        case told.Published():
            return PublishedEvent(**asdict(event))
        case told.Note():
            return NoteEvent(message=event.message)
        case told.StateChanged():
            return StateEvent(state=event.state)
        case told.Finished():
            path = None if event.path is None else str(event.path)
            return TrainingFinished(**{**asdict(event), "path": path})
        case told.Failed():
            return TrainingFailed(code=event.code, message=event.message)
