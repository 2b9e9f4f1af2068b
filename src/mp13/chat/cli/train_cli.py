"""`mp13 train`: its flags, its progress and its end. What they mean is chat/library/train_order.py's, the work
library/training.py's."""

import json
import shlex
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from mp13.chat.cli.data_cli import AsJson, Format, refused, tell
from mp13.chat.cli.outcome import INTERRUPTED, complain, outcome
from mp13.chat.cli.progress import Progress
from mp13.chat.cli.train_progress import TrainProgress
from mp13.chat.library.stored_data import SOURCES
from mp13.chat.library.train_order import training_order
from mp13.chat.library.train_view import (
    finished_json,
    finished_text,
    plan_text,
    rehearsal_json,
    rehearsal_text,
)
from mp13.chat.text import one_line
from mp13.engine.training.checkpoints import RunFolder
from mp13.engine.training.config import DTYPES, KINDS, LOSSES, SCHEDULES
from mp13.engine.training.events import Finished
from mp13.engine.training.process.request import Started
from mp13.errors import DivergedError, TrainingError
from mp13.library.data.problem import DataError
from mp13.library.paths import adapters_dir
from mp13.library.training import JobEvent, TrainingOrder, check_data, train

PROGRAM = "mp13 train"
app = typer.Typer(add_completion=False)
_Text = str | None
_Whole = int | None
_Share = float | None


def _option(help: str, metavar: str, *names: str) -> Any:
    return typer.Option(*names, help=help, metavar=metavar)


@app.callback(invoke_without_command=True)
def train_(
    context: typer.Context,
    model: Annotated[_Text, _option("The base: `starter`, a folder, a GGUF file, a Hub id; else the settings'.", "M")]
    = None,
    data: Annotated[list[str] | None, _option(f"To learn from; repeatable. {SOURCES}", "FILE", "--data")] = None,
    name: Annotated[_Text, _option("What the adapter will be called.", "NAME")] = None,
    output: Annotated[Path | None, _option("The folder to make it in; else the library's.", "DIR")] = None,
    recipe: Annotated[Path | None, _option("A TOML file with any of these; flags go before it.", "FILE")] = None,
    evaluation: Annotated[list[str] | None, _option("To evaluate by; repeatable.", "FILE", "--eval")] = None,
    eval_share: Annotated[_Share, _option("Or this share of the data, drawn by the seed.", "X")] = None,
    eval_every: Annotated[_Whole, _option("Evaluate after so many steps.", "N")] = None,
    early_stop: Annotated[_Whole, _option("End after so many evaluations that are no better.", "N")] = None,
    steps: Annotated[_Whole, _option("Optimizer steps; else as many as the epochs take.", "N")] = None,
    epochs: Annotated[_Share, _option("Passes over the data.", "X")] = None,
    kind: Annotated[_Text, _option(f"{', '.join(KINDS)}.", "KIND")] = None,
    rank: Annotated[_Whole, _option("Of the adapter.", "R")] = None,
    alpha: Annotated[_Share, _option("Its scale is alpha/rank, of rslora alpha/√rank.", "A")] = None,
    dropout: Annotated[_Share, _option("Of what goes into the adapter.", "X")] = None,
    targets: Annotated[_Text, _option("all-linear, names with commas, or a regular expression.", "T")] = None,
    init: Annotated[_Text, _option("default, pissa, or pissa_niter_N, which is faster.", "INIT")] = None,
    lr: Annotated[_Share, _option("The highest learning rate.", "X")] = None,
    schedule: Annotated[_Text, _option(f"{', '.join(SCHEDULES)}.", "NAME")] = None,
    warmup: Annotated[_Share, _option("Steps until the highest rate; below 1, a share of all.", "N")] = None,
    weight_decay: Annotated[_Share, _option("AdamW's.", "X")] = None,
    batch_tokens: Annotated[_Whole, _option("Samples are packed into rows of so many tokens.", "N")] = None,
    batch_rows: Annotated[_Whole, _option("Or so many samples a row, of any length.", "N")] = None,
    accumulate: Annotated[_Whole, _option("Rows that make a step.", "N")] = None,
    clip: Annotated[_Share, _option("The longest gradient; 0 leaves it as it is.", "X")] = None,
    dtype: Annotated[_Text, _option(f"Of base and products: {', '.join(DTYPES)}.", "DTYPE")] = None,
    gradient_checkpointing: Annotated[
        bool | None, typer.Option("--gradient-checkpointing", help="Less memory, a third more time.")
    ] = None,
    seed: Annotated[_Whole, _option("Of order, first weights and dropout.", "N")] = None,
    loss: Annotated[_Text, _option(f"What carries loss: {', '.join(LOSSES)}.", "WHAT")] = None,
    max_len: Annotated[_Whole, _option("The longest sample, in tokens; else the model's context.", "N")] = None,
    save_every: Annotated[_Whole, _option("A checkpoint after so many steps.", "N")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say steps, memory and time; train nothing.")] = False,
    launch: Annotated[int, typer.Option(min=1, metavar="N", help="Processes, each on a GPU of its own.")] = 1,
    format: Format = None, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Train an adapter. What is left out is chosen by the size of model and data."""
    if context.invoked_subcommand is not None:
        return
    how: dict[str, Any] = {"resume": resume, "dry_run": dry_run, "processes": launch, "format": format}
    by_name = {
        "model": model, "data": data, "name": name, "eval": evaluation, "eval_split": eval_share,
        "eval_every": eval_every, "patience": early_stop, "steps": steps, "epochs": epochs, "kind": kind, "rank": rank,
        "alpha": alpha, "dropout": dropout, "targets": _targets(targets), "init": init, "lr": lr, "schedule": schedule,
        "weight_decay": weight_decay, "batch_tokens": batch_tokens, "batch_rows": batch_rows,
        "accumulation": accumulate, "dtype": dtype, "gradient_checkpointing": gradient_checkpointing, "seed": seed,
        "loss": loss, "max_len": max_len, "save_every": save_every, **_warmup(warmup), "max_grad_norm": clip,
    }  # fmt: skip
    with outcome(PROGRAM):
        with Progress(PROGRAM, quiet=True) as progress:
            order = training_order(by_name, recipe, output=output, on_progress=progress, **how)
            tell(PROGRAM, check_data(order, progress))
        _Run(order, as_json).go()


def _targets(text: str | None) -> Any:
    """Names by commas; what is no list of names is a regular expression, or all-linear."""
    if text is None or not all(part.strip().isidentifier() for part in text.split(",")):
        return text
    return tuple(part.strip() for part in text.split(","))


def _warmup(steps: float | None) -> dict[str, Any]:
    if steps is None:
        return {}
    return {"warmup_ratio": steps} if 0 < steps < 1 else {"warmup_steps": int(steps)}


class _Run:
    """From the order to its end, and what is said meanwhile."""

    def __init__(self, order: TrainingOrder, as_json: bool) -> None:
        self._order, self._as_json = order, as_json
        self._loading = Progress(PROGRAM)
        self._started: Started | None = None
        self._training: TrainProgress | None = None
        self._shown = ExitStack()

    def go(self) -> None:
        with self._loading, self._shown:
            try:
                trained = train(self._order, self._loading, self._told)
            except DataError as error:
                raise refused(PROGRAM, error.problems) from None
            except DivergedError:
                raise
            except TrainingError as error:
                raise TrainingError(f"{error}{self._way_on()}") from None
        if trained.rehearsal is not None and self._started is not None:
            shown = rehearsal_json(self._started, trained.rehearsal)
            print(json.dumps(shown) if self._as_json else rehearsal_text(self._started.plan, trained.rehearsal))
        if trained.finished is not None:
            self._end(trained.finished)

    def _way_on(self) -> str:
        """Behind what ended a run: how to go on from its last checkpoint, if it has one."""
        if self._started is None or self._order.dry_run or not RunFolder(self._order.output).steps():
            return ""
        return f"; to go on from it: {_resumed()}"

    def _told(self, event: JobEvent) -> None:
        if isinstance(event, Started):
            self._begin(event)
        elif self._training is not None:
            self._training(event)

    def _begin(self, started: Started) -> None:
        self._loading.clear()
        self._started = started
        for note in started.notes:
            complain(f"{PROGRAM}: {one_line(note)}")
        complain(f"{PROGRAM}: {plan_text(started)}")
        if not self._order.dry_run:
            watched = TrainProgress(PROGRAM, started.plan.total_steps, started.step)
            self._training = self._shown.enter_context(watched)

    def _end(self, finished: Finished) -> None:
        if finished.path is None:
            complain(f"{PROGRAM}: it was stopped before its first step; nothing is saved")
            raise SystemExit(INTERRUPTED)
        print(json.dumps(finished_json(finished)) if self._as_json else finished_text(finished))
        if finished.path.parent == adapters_dir():
            complain(f"{PROGRAM}: to talk to it: mp13chat --adapter {finished.path.name}")
        if finished.reason == "stopped":
            complain(f"{PROGRAM}: step {finished.step} is saved; to go on: {_resumed()}")
            raise SystemExit(INTERRUPTED)


def _resumed() -> str:
    given = [argument for argument in sys.argv[1:] if argument != "--resume"]
    return one_line(shlex.join(["mp13", *given, "--resume"]))
