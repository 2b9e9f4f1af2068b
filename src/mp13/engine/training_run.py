"""One training run inside an engine: its pieces, the versions it publishes, and what it tells.

All is done on the engine's thread, on the weights that answer. At each boundary of a layer, on both ways, the engine
serves whoever waits; while somebody does, training keeps a tenth of the time.
"""

import logging
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError

from mp13.engine.core import EngineCore
from mp13.engine.training.aside import aside
from mp13.engine.training.checkpoints import RunFolder
from mp13.engine.training.events import (
    Failed,
    Finished,
    Note,
    Planned,
    Published,
    RunEvent,
    RunState,
    StateChanged,
    StepDone,
    TrainEvent,
)
from mp13.engine.training.job import TrainingJob
from mp13.engine.training.trainer import Trainer
from mp13.engine.training_preparation import prepared
from mp13.errors import Mp13Error, TrainingError
from mp13.mix import check_name

log = logging.getLogger(__name__)

BUSY_SHARE = 0.1  # of the time is training's while there are requests all along
KEPT_VERSIONS = 4


class TrainingRun:
    """
    Args:
        serve: called at each boundary with the most seconds for which others may have the engine.
        tell: called with each event, on the engine's thread.
    """

    def __init__(
        self,
        core: EngineCore,
        job: TrainingJob,
        serve: Callable[[float], None],
        tell: Callable[[RunEvent], None],
    ) -> None:
        check_name(job.name)
        self.job = job
        self.state: RunState = "preparing"
        self.published: list[str] = []  # oldest first
        self._core, self._serve, self._tell = core, serve, tell
        self._trainer: Trainer | None = None
        self._piece_began, self._longest = 0.0, 0.0
        self.num_pieces = 0  # computed so far
        self._versions = tempfile.TemporaryDirectory(prefix="mp13-versions-")
        self._held = ExitStack()  # the output folder
        self._every = 1
        self._is_planned = self._is_ending = False
        self.is_computing = False  # also after a pause, up to the end of the row

    @property
    def is_over(self) -> bool:
        return self.state in ("finished", "failed")

    @property
    def is_waiting(self) -> bool:
        return self.state == "paused"

    def prepare(self) -> None:
        """Take the output folder, read what is to be learned and make the trainer, on any thread. Errors of `prepared`,
        and a TrainingError where another run writes into the folder."""
        with ExitStack() as stack:
            stack.enter_context(RunFolder(self.job.output).alone())
            self._trainer = prepared(self._core, self.job, self._between)
            self._held = stack.pop_all()
        self._every = self.job.publish_every or self._trainer.config.save_every

    def let_go(self) -> None:
        """Give the output folder back."""
        self._held.close()

    def advance(self) -> None:
        """A piece of work, with boundaries; what goes wrong ends the run alone."""
        self.is_computing = True
        try:
            self._begin_piece()
            if not self._is_planned:
                self._plan()
            elif (event := self._running_trainer.advance()) is not None:
                self._take(event)
            self._between()
        except Exception as error:
            if not isinstance(error, Mp13Error):
                log.exception("the training of %r failed", self.job.name)
                error = TrainingError(f"training met an unexpected {type(error).__name__} ({error}); see the log")
            self._end("failed", Failed(type(error).__name__, str(error)))
        finally:
            self.is_computing = False

    def pause(self) -> None:
        if self.state in ("preparing", "running"):
            self._running_trainer.pause()
            self._change("paused")

    def go_on(self) -> None:
        if self.state == "paused":
            self._running_trainer.go_on()
            self._change("running")

    def stop(self) -> None:
        self._is_ending = True
        self._running_trainer.stop()
        self._change("running")

    def cancel(self) -> None:
        self._is_ending = True
        self._running_trainer.cancel()
        self._change("running")

    def park(self) -> None:
        """Save the last whole step, so that the run can be resumed, and end."""
        self._is_ending = True
        self._running_trainer.park()
        self._change("running")

    @property
    def _running_trainer(self) -> Trainer:
        if self._trainer is None or self.is_over:
            raise TrainingError(f"the training of {self.job.name!r} is over; start another run")
        return self._trainer

    def _plan(self) -> None:
        trainer = self._running_trainer
        self._is_planned = True
        try:
            rehearsal = trainer.rehearse()
        except TrainingError:
            if self._is_ending:  # somebody ended it meanwhile
                return
            raise
        if self.state == "preparing":
            self._change("running")
        self._tell(Planned(self.job.name, self.job.output, trainer.plan, rehearsal, trainer.step, trainer.config))

    def _take(self, event: TrainEvent) -> None:
        if isinstance(event, Finished):
            self._finish(event)
            return
        if isinstance(event, StepDone):
            longest, self._longest = self._longest, 0.0
            self._tell(StepDone(**{**vars(event), "longest_piece_s": longest}))
            if event.step % self._every == 0 or event.step == event.total_steps:
                self._publish(event.step)
            return
        self._tell(event)

    def _publish(self, step: int) -> None:
        name = f"{self.job.name}@{step}"
        folder = Path(self._versions.name) / name
        try:
            folder.mkdir()
            for _ in aside(partial(self._running_trainer.write_adapter, folder)):
                self._between()
            self._between()
            info = self._core.load_adapter(folder, self.job.name, version=step)
        except (OSError, SafetensorError, Mp13Error) as error:
            shutil.rmtree(folder, ignore_errors=True)
            self._tell(Note(f"{name} could not be published ({error}); the run goes on"))
            return
        self.published.append(name)
        self._tell(Published(step, name, info.digest, tuple(self._drop(KEPT_VERSIONS))))

    def _drop(self, keep: int) -> list[str]:
        """Unload the oldest versions that nobody uses until no more than `keep` are left. Those that somebody else has
        unloaded are gone already."""
        loaded = self._loaded
        gone = [name for name in self.published if name not in loaded]
        left = [name for name in self.published if name in loaded]
        unused = [name for name in left[:-1] if not self._core.adapters.is_used(name)]
        dropped = [*gone, *unused[: max(0, len(left) - keep)]]
        for name in dropped:
            self.forget(name)
            shutil.rmtree(Path(self._versions.name) / name, ignore_errors=True)
        return dropped

    @property
    def _loaded(self) -> set[str]:
        return {info.name for info in self._core.adapters.infos}

    def forget(self, name: str) -> None:
        """Requests that use the version finish with it. Somebody may have unloaded it already."""
        self.published.remove(name)
        if name in self._loaded:
            self._core.unload_adapter(name)

    def forget_all(self) -> None:
        for name in list(self.published):
            self.forget(name)

    def _finish(self, event: Finished) -> None:
        if event.reason == "cancelled":
            self.forget_all()
        elif event.path is not None:
            try:
                self._core.load_adapter(event.path, self.job.name)
            except Mp13Error as error:
                self._tell(Note(f"{self.job.name} could not be loaded ({error})"))
        self._end("finished", event)

    def _end(self, state: RunState, event: Finished | Failed) -> None:
        self.let_go()
        self.state, self._trainer = state, None
        self._tell(event)

    def _change(self, state: RunState) -> None:
        if state != self.state:
            self.state = state
            self._tell(StateChanged(state))

    def _begin_piece(self) -> None:
        self._piece_began = time.perf_counter()

    def _between(self) -> None:
        piece = time.perf_counter() - self._piece_began
        self._longest = max(self._longest, piece)
        self.num_pieces += 1
        with torch.no_grad():
            self._serve(piece * (1 - BUSY_SHARE) / BUSY_SHARE)
        self._begin_piece()
