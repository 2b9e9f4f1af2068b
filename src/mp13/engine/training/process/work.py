"""A whole training run: tokens first, and only if all samples are good the model, then the steps.

How samples become tokens is rendering's, how an adapter trains the trainer's.
"""

import dataclasses
import os
import threading
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mp13.engine.config import EngineConfig
from mp13.engine.models.choices import read_config
from mp13.engine.models.digest import base_digest
from mp13.engine.models.loader import LoadedModel, load_model
from mp13.engine.models.source import open_source
from mp13.engine.models.tokenizer import eos_token_ids, read_tokenizer
from mp13.engine.models.weights import model_path
from mp13.engine.request import OnProgress
from mp13.engine.text.chat_template import template_digest
from mp13.engine.training.checkpoints import RunFolder
from mp13.engine.training.config import TrainConfig, suggested_config
from mp13.engine.training.events import Finished
from mp13.engine.training.passes import Base
from mp13.engine.training.peers import local_rank, peers
from mp13.engine.training.process.request import SampleProblem, Started, TrainReport, TrainRequest
from mp13.engine.training.record import Origin
from mp13.engine.training.rendering.render import Renderer
from mp13.engine.training.rendering.request import MOST_PROBLEMS
from mp13.engine.training.rows import TrainingRow
from mp13.engine.training.sample import Sample
from mp13.engine.training.trainer import Trainer, recorded_config
from mp13.engine.worker import OnEvent
from mp13.errors import ConfigError, TrainingError

_EVERY = 500  # samples between two words of progress


@dataclass(frozen=True)
class _Rows:
    train: list[TrainingRow]
    eval: list[TrainingRow] | None
    template_digest: str
    notes: tuple[str, ...]


def train(request: TrainRequest, on_progress: OnProgress, on_event: OnEvent, ended: threading.Event) -> TrainReport:
    """
    Raises:
        ConfigError, UnsupportedError: settings cannot be used, with each other or with this model.
        ModelError: the model cannot be had.
        TrainingError: the run cannot begin or go on; names the last checkpoint.
    """
    before = recorded_config(Path(request.output)).to_json() if request.resume else {}
    options = before | request.options
    rows = _Tokens(request, options, on_progress).rows()
    if not isinstance(rows, _Rows):
        return TrainReport(problems=rows)
    together = peers()
    writes = together.is_first and not request.dry_run
    with RunFolder(Path(request.output)).alone() if writes else nullcontext():
        loaded = load_model(_engine(request), on_progress)
        config = TrainConfig.from_json(options) if before else _suggested(loaded, rows, options, together.size)
        if ended.is_set():
            raise TrainingError("the run was stopped before its first step; nothing is saved")
        trainer = Trainer(
            Base(loaded.model, loaded.context, loaded.vocab_size, loaded.device, loaded.activation_dtype),
            rows.train, config, Path(request.output),
            Origin(request.base_name, base_digest(loaded.path), rows.template_digest),
            eval_rows=rows.eval, resume=request.resume, peers=together,
        )  # fmt: skip
        on_event(Started(trainer.plan, config.to_json(), trainer.step, rows.notes))
        if request.dry_run:
            on_progress("trying a row", None)
            return TrainReport(rehearsal=trainer.rehearse())
        return TrainReport(finished=_run(trainer, on_event, ended))


def _run(trainer: Trainer, on_event: OnEvent, ended: threading.Event) -> Finished:
    def stop() -> None:
        ended.wait()
        trainer.stop()

    threading.Thread(target=stop, daemon=True).start()
    for event in trainer.run():
        if isinstance(event, Finished):
            return event
        on_event(event)
    raise AssertionError("a run ends with Finished, or raises")


def _engine(request: TrainRequest) -> EngineConfig:
    """Of this process: of several on one machine, each has a GPU of its own."""
    config = EngineConfig(**request.engine)
    if peers().size == 1 or not torch.cuda.is_available() or config.device == "cpu":
        return config
    if peers().size > torch.cuda.device_count():
        raise ConfigError(f"launch = {peers().size}, but there are {torch.cuda.device_count()} GPUs; give at most that")
    return dataclasses.replace(config, device=f"cuda:{local_rank()}")


def _suggested(loaded: LoadedModel, rows: _Rows, options: dict[str, Any], num_peers: int) -> TrainConfig:
    lens = [len(row.ids) for row in rows.train]
    loss = options.get("loss", "assistant")
    config = suggested_config(
        hidden_size=loaded.shape.hidden_size,
        num_rows=len(lens),
        num_tokens=sum(lens),
        longest_row=max(lens + [len(row.ids) for row in rows.eval or ()]),
        num_loss_tokens=sum(len(row.learned(loss)) for row in rows.train),
        on_cpu=loaded.device.type == "cpu",
        **options,
    )
    if config.accumulation >= num_peers:
        return config
    if "accumulation" in options:
        raise ConfigError(
            f"a step of {config.accumulation} rows leaves some of {num_peers} processes without any; "
            f"give --accumulate {num_peers}"
        )
    return dataclasses.replace(config, accumulation=num_peers)


class _Tokens:
    """The request's samples through the model's tokenizer and template. No weights are read."""

    def __init__(self, request: TrainRequest, options: dict[str, Any], on_progress: OnProgress) -> None:
        self._request, self._options, self._on_progress = request, options, on_progress
        self._problems: list[SampleProblem] = []
        config = EngineConfig(**request.engine)
        on_progress("tokenizer", None)
        with open_source(model_path(config.model, on_progress, with_weights=False)) as source:
            hf_config = read_config(source, config.trust_remote_code)
            tokenizer = read_tokenizer(source, hf_config, config.trust_remote_code)
            self._renderer = Renderer(tokenizer, eos_token_ids(source.folder, hf_config, tokenizer))
        self._digest = template_digest(tokenizer)
        self._longest, self._fix = self._limit(
            getattr(hf_config.get_text_config(), "max_position_embeddings", None) or 2048
        )

    def rows(self) -> _Rows | tuple[SampleProblem, ...]:
        learned = self._rows_in(self._request.rows, is_eval=False)
        held_out = None if self._request.eval_rows is None else self._rows_in(self._request.eval_rows, is_eval=True)
        if self._problems:
            return tuple(self._problems)
        return _Rows(learned, held_out, self._digest, self._renderer.notes)

    def _limit(self, context: int) -> tuple[int, str]:
        """The most tokens of a sample, and what to do about one that has more."""
        wanted = self._request.max_len
        if wanted is not None and wanted > context:
            raise ConfigError(f"max_len = {wanted:,} is over the model's context of {context:,} tokens")
        batch = None if self._options.get("batch_rows") else self._options.get("batch_tokens")
        if batch is not None and batch < min(context, wanted or context):
            return batch, "shorten or split it, or raise batch_tokens"
        fix = "shorten or split it"
        return (context, fix) if wanted is None or wanted == context else (wanted, f"{fix}, or raise the limit")

    def _rows_in(self, path: str, *, is_eval: bool) -> list[TrainingRow]:
        rows: list[TrainingRow] = []
        size, done = max(1, os.path.getsize(path)), 0
        with open(path, "rb") as lines:
            for number, line in enumerate(lines):
                if number % _EVERY == 0:
                    self._on_progress("counting tokens", done / size)
                done += len(line)
                if len(self._problems) < MOST_PROBLEMS:
                    rows += self._rows_of(Sample.from_line(line.decode()), number, is_eval)
        return rows

    def _rows_of(self, sample: Sample, number: int, is_eval: bool) -> Sequence[TrainingRow]:
        try:
            sequences = self._renderer.render(sample, self._options.get("loss", "assistant"))
        except ConfigError as error:
            self._problems.append(SampleProblem(is_eval, number, str(error)))
            return ()
        longest = max(len(sequence.ids) for sequence in sequences)
        if longest > self._longest:
            sentence = f"has {longest:,} tokens, and {self._longest:,} are allowed; {self._fix}"
            self._problems.append(SampleProblem(is_eval, number, sentence))
        return [TrainingRow(sequence.ids, sequence.mask) for sequence in sequences]
