"""Trains, as `main`, in a process of its own that kills itself.

A moment is a boundary of a layer or a file that is on its way to the disk. The process goes on with what is in OUTPUT,
counts moments, and at MOMENT is gone as a power cut would leave it: no handler runs, nothing is written any more.
"""

import os
import signal
from pathlib import Path
from typing import Any

from mp13.engine.training.checkpoints import RunFolder
from mp13.engine.training.config import TrainConfig
from mp13.engine.training.trainer import Trainer
from tests.engine.training_world import ORIGIN, base_of, random_rows

STEPS = 10
ROWS = random_rows(*([20, 7, 33, 12, 28, 9] * 2))
CONFIG = TrainConfig(
    rank=4, lr=5e-3, batch_tokens=64, accumulation=2, steps=STEPS, save_every=2, eval_split=0.2, eval_every=3,
    dropout=0.1, kind="dora", warmup_steps=3,
)  # fmt: skip


def train(model: Path, output: Path, between: Any = lambda: None) -> None:
    for _ in Trainer(
        base_of(model), ROWS, CONFIG, output, ORIGIN, between=between, resume=bool(RunFolder(output).steps())
    ).run():
        pass


def main(model: Path, output: Path, moment: int) -> None:
    left, fsync = [moment], os.fsync

    def tick() -> None:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def ticking_fsync(descriptor: int) -> None:
        tick()
        fsync(descriptor)

    os.fsync = ticking_fsync  # type: ignore[assignment]
    train(model, output, tick)
