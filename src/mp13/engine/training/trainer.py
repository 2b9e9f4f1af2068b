"""Trains an adapter on the model that is in memory, and tells how it goes, one event after the other.

A caller takes the events from `run`, or with `advance` one piece of work at a time, so that the model can do other
things in between. Whoever turns it does so from one thread; pause, stop and cancel may come from any.
"""

import errno
import os
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path

from safetensors import SafetensorError

from mp13.engine.models.room import is_out_of_memory, release
from mp13.engine.training.aside import aside
from mp13.engine.training.checkpoints import RunFolder
from mp13.engine.training.config import TrainConfig
from mp13.engine.training.events import Finished, FinishReason, Rehearsal, Saved, TrainEvent, TrainingPlan
from mp13.engine.training.passes import Base
from mp13.engine.training.peers import ALONE, Peers
from mp13.engine.training.record import Origin, RunRecord
from mp13.engine.training.rows import TrainingRow
from mp13.engine.training.run import Run
from mp13.errors import TrainingError


class _BrokenOff(Exception):
    """The run is to end in the middle of a pass."""


class Trainer:
    """
    Args:
        rows: what to train on; without `eval_rows`, `config.eval_split` of them are held out.
        output: where the adapter will be, and meanwhile the checkpoints.
        between: called at every boundary of a layer, on the way forward and back, where the model is free.
        resume: go on from the last checkpoint in `output`, as if the run had not been broken off. Model, samples and
            settings (see `recorded_config`) are to be those of the run.
        peers: the processes that train with this one; each has the same arguments. A stop waits for the end of a step.

    Raises:
        ConfigError: settings and samples do not fit each other or the model.
        TrainingError: the output folder is in use, or holds nothing that could go on.
    """

    def __init__(
        self,
        base: Base,
        rows: Sequence[TrainingRow],
        config: TrainConfig,
        output: Path,
        origin: Origin,
        *,
        eval_rows: Sequence[TrainingRow] | None = None,
        between: Callable[[], None] = lambda: None,
        resume: bool = False,
        peers: Peers = ALONE,
    ) -> None:
        self._config, self._folder, self._others, self._peers = config, RunFolder(output), between, peers
        self._folder.require(resume=resume)
        self._run = Run(base, rows, eval_rows, config, origin, self._at_boundary, peers)
        if resume:
            self._run.go_on_from(self._folder.last())
        self._going, self._stop, self._cancel = threading.Event(), threading.Event(), threading.Event()
        self._park = threading.Event()
        self._going.set()
        self._pieces = self._whole_run()
        self.is_finished = False

    @property
    def plan(self) -> TrainingPlan:
        return self._run.plan

    @property
    def step(self) -> int:
        """How many are done."""
        return self._run.record.step

    def rehearse(self) -> Rehearsal:
        """Try one row, so that memory and time can be told before the run. Nothing of it stays.

        Raises:
            TrainingError: the memory does not suffice.
        """
        try:
            return self._run.rehearse()
        except Exception as error:
            if (ended := self._readable(error)) is None:
                raise
            release(error)
        raise ended

    @property
    def is_paused(self) -> bool:
        return not self._going.is_set()

    def pause(self) -> None:
        """Do nothing more after the row that is being computed, until `go_on`."""
        self._going.clear()

    def go_on(self) -> None:
        self._going.set()

    def stop(self) -> None:
        """End at the next boundary of a layer and keep the adapter of the last whole step."""
        self._stop.set()
        self._going.set()

    def cancel(self) -> None:
        """End at the next boundary of a layer and remove what the run has saved."""
        self._cancel.set()
        self.stop()

    def park(self) -> None:
        """End at the next boundary of a layer with a checkpoint of the last whole step, to be resumed from there."""
        self._park.set()
        self.stop()

    @property
    def config(self) -> TrainConfig:
        return self._config

    def write_adapter(self, folder: Path) -> None:
        """The adapter as it is between two pieces. Errors of `Run.write_adapter`."""
        self._run.write_adapter(folder)

    def run(self) -> Iterator[TrainEvent]:
        """All events until the run has finished. Waits while it is paused.

        Raises:
            TrainingError: it cannot go on; names the last checkpoint.
        """
        while not self.is_finished:
            self._going.wait()
            if (event := self.advance()) is not None:
                yield event

    def advance(self) -> TrainEvent | None:
        """Compute one row, or do a part of what comes between two, and return what there is to tell. Nothing while
        paused or finished. Errors of `run`."""
        if self.is_finished or self.is_paused:
            return None
        try:
            event = next(self._pieces)
        except Exception as error:
            self.is_finished = True
            if (ended := self._readable(error)) is None:
                raise
            release(error)
        else:
            self.is_finished = isinstance(event, Finished)
            return event
        raise ended

    def _whole_run(self) -> Iterator[TrainEvent | None]:
        if self._peers.is_first:
            self._folder.clear_unfinished()
        try:
            while (reason := self._why_over()) is None:
                yield (yield from self._run.train_step())
                yield from self._after_step()
        except _BrokenOff:
            reason = "cancelled" if self._cancel.is_set() else "parked" if self._park.is_set() else "stopped"
        yield from self._end(reason)

    def _why_over(self) -> FinishReason | None:
        record, patience = self._run.record, self._config.patience
        if self._peers.any(self._stop.is_set()):
            raise _BrokenOff
        if record.step >= record.total_steps:
            return "done"
        return "early stop" if patience and record.evals_since_best >= patience else None

    def _after_step(self) -> Iterator[TrainEvent | None]:
        """Evaluate and save where it is time to. Every step that is the best so far is saved, too."""
        run, step, config = self._run, self._run.record.step, self._config
        is_last, is_best = step == run.record.total_steps, False
        if run.evaluates and (is_last or step % config.eval_every == 0):
            done = yield from run.evaluate()
            is_best = done.is_best
            yield done
        if is_last or is_best or step % config.save_every == 0:
            yield (yield from self._save())

    def _save(self) -> Generator[None, None, Saved]:
        """Others have the model while it is written; the run waits."""
        run, step = self._run, self._run.record.step
        if not self._peers.is_first:
            return Saved(step, self._folder.checkpoint(step))
        try:
            path = yield from aside(lambda: self._folder.save(step, run.save_into))
        except (OSError, SafetensorError) as error:
            raise _unwritten(f"the checkpoint of step {step}", error) from error
        best = run.record.best
        self._folder.prune(self._config.keep, None if best is None else best[0])
        return Saved(step, path)

    def _end(self, reason: FinishReason) -> Iterator[TrainEvent | None]:
        run, record = self._run, self._run.record
        if not self._peers.is_first:
            yield self._finished(reason, None)
            return
        if reason == "cancelled":
            self._folder.discard()
            yield self._finished(reason, None)
            return
        if record.step == 0:
            yield self._finished(reason, None)
            return
        if record.step not in self._folder.steps():
            yield (yield from self._save())
        if reason == "parked":
            yield self._finished(reason, None)
            return
        record.from_step = record.step
        if reason != "stopped" and record.best is not None:
            record.from_step = record.best[0]
            run.load_weights(self._folder.checkpoint(record.from_step))
        try:
            yield from aside(lambda: self._folder.finish(run.write_adapter))
        except (OSError, SafetensorError) as error:
            raise _unwritten("the finished adapter", error) from error
        yield self._finished(reason, self._folder.output)

    def _finished(self, reason: FinishReason, path: Path | None) -> Finished:
        record = self._run.record
        losses = [loss for _, loss, _ in record.losses]
        return Finished(
            reason,
            record.step,
            path,
            record.from_step,
            first_loss=losses[0] if losses else None,
            last_loss=losses[-1] if losses else None,
            eval_loss=dict(record.evals).get(record.from_step),
            tokens=record.tokens,
            seconds=record.seconds,
        )

    def _at_boundary(self) -> None:
        if self._stop.is_set() and self._peers.size == 1:
            raise _BrokenOff
        self._others()

    def _readable(self, error: BaseException) -> TrainingError | None:
        """What to tell of an error that ends the run; None for one that nobody expects."""
        has_saved = bool(self._folder.steps())
        kept = f"the last checkpoint is {self._folder.last()}" if has_saved else "it had saved nothing yet"
        if isinstance(error, TrainingError):
            return type(error)(f"{error}; {kept}")
        if isinstance(error, _BrokenOff):  # while it was rehearsed
            return TrainingError("the rehearsal was stopped")
        if is_out_of_memory(error):
            step, tokens = self._run.record.step + 1, self._config.batch_tokens
            less = "" if self._config.gradient_checkpointing else " turn gradient_checkpointing on,"
            return TrainingError(
                f"memory ran out at step {step}, with rows of up to {tokens} tokens; end what else runs there,{less} "
                f"or train anew with lower batch_tokens; {kept}"
            )
        return None


def recorded_config(output: Path) -> TrainConfig:
    """The settings of the run in `output`.

    Raises:
        TrainingError: there is none.
    """
    folder = RunFolder(output)
    folder.require(resume=True)
    return RunRecord.read(folder.last()).config


def _unwritten(what: str, error: Exception) -> TrainingError:
    reason = getattr(error, "strerror", None) or str(error)
    fix = "make room on the disk" if os.strerror(errno.ENOSPC) in reason else "see that its folder can be written"
    return TrainingError(f"{what} cannot be written ({reason}); {fix}")
