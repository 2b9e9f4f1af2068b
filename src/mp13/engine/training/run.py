"""One run's state and its work: optimizer steps and evaluations, in pieces between which others may have the model.

Knows what a run saves of itself, not when, and nothing of who turns it.
"""

import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from mp13.engine.training.adapter import TrainableAdapter
from mp13.engine.training.batch import PackedRow, packed_row
from mp13.engine.training.checkpoints import OPTIMIZER_FILE
from mp13.engine.training.config import TrainConfig
from mp13.engine.training.events import EvalDone, Rehearsal, StepDone, TrainingPlan
from mp13.engine.training.meters import PeakMemory, Stopwatch
from mp13.engine.training.model_card import model_card
from mp13.engine.training.optimizer import Optimizer
from mp13.engine.training.packing import Sampler, pack
from mp13.engine.training.passes import Base, Passes
from mp13.engine.training.peers import ALONE, Peers
from mp13.engine.training.peft_folder import load_weights, save_adapter
from mp13.engine.training.record import RECORD_FILE, Origin, RunRecord
from mp13.engine.training.rows import TrainingRow, data_digest, split_rows
from mp13.engine.training.schedule import schedule
from mp13.errors import DivergedError, TrainingError

_DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
_QUICK = 5.0  # seconds
_STATE_BYTES = 16  # of a trained number: itself, its gradient, AdamW's two means
_MAY_CHANGE = {"gradient_checkpointing"}  # in a run that goes on: it changes memory and time, and no number


class Run:
    """
    Args:
        between: called at every boundary of a layer; may raise to break off.

    Raises:
        ConfigError: settings and samples do not fit each other or the model.
    """

    def __init__(
        self,
        base: Base,
        rows: Sequence[TrainingRow],
        eval_rows: Sequence[TrainingRow] | None,
        config: TrainConfig,
        origin: Origin,
        between: Callable[[], None],
        peers: Peers = ALONE,
    ) -> None:
        self._base, self._config, self._others, self._peers = base, config, between, peers
        self._memory, self._watch = PeakMemory(base.device), Stopwatch()
        split = split_rows(rows, eval_rows, config, base.vocab_size)
        self._rows, self._eval_rows = split.train, split.eval
        self._sampler = Sampler([len(row.ids) for row in self._rows], config)
        dtype = _DTYPES.get(config.dtype, base.dtype)
        self._adapter = TrainableAdapter(
            base.model.targets, config, vocab_size=base.vocab_size, dtype=dtype, device=base.device
        )
        self._passes = Passes(base, self._adapter, self._at_boundary)
        self._optimizer = Optimizer(self._adapter.flat, config)
        self._share = schedule(config, self._sampler.total_steps)
        self.record = RunRecord(
            config, origin, data_digest(rows, eval_rows), self._sampler.total_steps, self._adapter.num_parameters
        )
        self.plan = self._planned(split.num_silent)

    @property
    def evaluates(self) -> bool:
        return bool(self._eval_rows)

    def train_step(self) -> Generator[None, None, StepDone]:
        """The next optimizer step; comes back after each row. Broken off, it has changed nothing.

        Raises:
            DivergedError: the loss or its gradient is not finite.
        """
        self._start_watch()
        record = self.record
        packs = self._sampler.step(record.step)
        samples = [self._rows[i] for one in packs for i in one]
        num_learned = sum(len(sample.learned(self._config.loss)) for sample in samples)
        total = torch.zeros((), device=self._base.device)
        try:
            for i, one in self._peers.share(list(enumerate(packs))):
                row = packed_row([self._rows[sample] for sample in one], self._config.loss, self._base.device)
                draw = record.step * self._config.accumulation + i
                total += self._passes.backward(row, 1 / num_learned, draw)
                yield from self._turn()
        except BaseException:
            self._optimizer.forget_gradient()
            raise
        self._peers.add_up(total)
        self._optimizer.add_up_gradient(self._peers)
        lr = self._config.lr * self._share(record.step)
        return self._step_done(float(total) / num_learned, lr, sum(len(sample.ids) for sample in samples))

    def _step_done(self, loss: float, lr: float, num_tokens: int) -> StepDone:
        record = self.record
        if not math.isfinite(loss):
            self._optimizer.forget_gradient()
            raise self._diverged("loss")
        norm = self._optimizer.step(lr)
        if not math.isfinite(norm):
            raise self._diverged("gradient")
        self._adapter.weights_changed()
        self._watch.halt()
        seconds = self._watch.take()
        record.step += 1
        record.tokens += num_tokens
        record.seconds += seconds
        record.losses.append((record.step, loss, lr))
        speed, memory = num_tokens / seconds, self._memory.take()
        return StepDone(record.step, record.total_steps, loss, lr, norm, record.tokens, speed, memory)

    def rehearse(self) -> Rehearsal:
        """Compute the first row and forget it; a second time, if that was quick, since the first pays for what is made
        once."""
        row = packed_row([self._rows[i] for i in self._sampler.step(0)[0]], self._config.loss, self._base.device)
        self._memory.take()
        seconds = math.inf
        for _ in range(2):
            self._start_watch()
            try:
                float(self._passes.backward(row, 1 / len(row.targets), 0))
            finally:
                self._optimizer.forget_gradient()
            self._watch.halt()
            seconds = min(seconds, self._watch.take())
            if seconds > _QUICK:
                break
        epochs = self._sampler.total_steps / self._sampler.steps_per_epoch
        speed = row.num_tokens / seconds
        return Rehearsal(speed, self._memory.take(), epochs * self.plan.num_tokens / speed)

    def evaluate(self) -> Generator[None, None, EvalDone]:
        """The mean loss over all tokens of the samples held out; comes back after each row.

        Raises:
            DivergedError: it is not finite.
        """
        self._start_watch()
        total = torch.zeros((), device=self._base.device)
        for row in self._peers.share(self._eval_packs()):
            total += self._passes.loss(row)
            yield from self._turn()
        self._peers.add_up(total)
        count = sum(len(row.learned(self._config.loss)) for row in self._eval_rows)
        loss, record = float(total) / count, self.record
        if not math.isfinite(loss):
            raise self._diverged("evaluation loss", record.step)
        self._watch.halt()
        record.seconds += self._watch.take()
        record.evals.append((record.step, loss))
        return EvalDone(record.step, loss, is_best=record.best == (record.step, loss))

    def save_into(self, folder: Path) -> None:
        """All that the run needs to go on from here. Errors of `write_adapter`."""
        self.write_adapter(folder)
        self._optimizer.save(folder / OPTIMIZER_FILE)

    def write_adapter(self, folder: Path) -> None:
        """The adapter as it is, and what is known of it.

        Raises:
            OSError, SafetensorError: it cannot be written.
            DivergedError: a weight is not finite.
        """
        if not self._adapter.flat.isfinite().all():
            raise self._diverged("weight", self.record.step)
        save_adapter(folder, self._adapter, self.record.origin.model)
        (folder / RECORD_FILE).write_text(self.record.to_json(), encoding="utf-8")
        (folder / "README.md").write_text(model_card(self.record), encoding="utf-8")

    def go_on_from(self, folder: Path) -> None:
        """Take up what `save_into` put there.

        Raises:
            TrainingError: it cannot be read, or is of another run.
        """
        record = RunRecord.read(folder)
        self._require_same(record)
        load_weights(folder, self._adapter)
        self._optimizer.load(folder / OPTIMIZER_FILE)
        self.record = replace(record, config=self._config)

    def load_weights(self, folder: Path) -> None:
        """The adapter of an earlier step of this run. Raises TrainingError."""
        load_weights(folder, self._adapter)

    def _start_watch(self) -> None:
        self._watch.take()
        self._watch.go()

    def _turn(self) -> Generator[None, None, None]:
        """Between two rows; what others do there is none of the run's time."""
        self._watch.halt()
        yield
        self._watch.go()

    def _at_boundary(self) -> None:
        self._memory.note()
        self._watch.halt()
        self._others()
        self._watch.go()

    def _eval_packs(self) -> list[PackedRow]:
        lens, longest = [len(row.ids) for row in self._eval_rows], max(len(row.ids) for row in self._eval_rows)
        packs = pack(lens, max(longest, self._config.batch_tokens))
        return [packed_row([self._eval_rows[i] for i in one], self._config.loss, self._base.device) for one in packs]

    def _planned(self, num_silent: int) -> TrainingPlan:
        return TrainingPlan(
            num_rows=len(self._rows),
            num_eval_rows=len(self._eval_rows),
            num_silent_rows=num_silent,
            num_tokens=sum(len(row.ids) for row in self._rows),
            loss_tokens=sum(len(row.learned(self._config.loss)) for row in self._rows),
            packs_per_epoch=self._sampler.packs_per_epoch,
            steps_per_epoch=self._sampler.steps_per_epoch,
            total_steps=self._sampler.total_steps,
            num_parameters=self._adapter.num_parameters,
            trained_bytes=self._adapter.flat.numel() * _STATE_BYTES,
        )

    def _require_same(self, record: RunRecord) -> None:
        own = self.record
        before, now = record.config.to_json(), own.config.to_json()
        for name, value in before.items():
            if value != now[name] and name not in _MAY_CHANGE:
                raise TrainingError(f"the run was begun with {name} = {value!r}, not {now[name]!r}; it cannot change")
        for what, was, is_now in (
            ("base model", record.origin.base_digest, own.origin.base_digest),
            ("chat template", record.origin.template_digest, own.origin.template_digest),
            ("data", record.data_digest, own.data_digest),
        ):
            if was != is_now:
                raise TrainingError(
                    f"the run was begun with another {what} (digest {was[:12]}, now {is_now[:12]}); give that, or "
                    "train anew"
                )

    def _diverged(self, what: str, step: int | None = None) -> DivergedError:
        """`step` is where it showed; without one, the step that is being computed."""
        return DivergedError(
            f"the {what} at step {step or self.record.step + 1} is not a finite number; train anew under another name, "
            f"with a learning rate below {self._config.lr:g}, or look at the data"
        )
