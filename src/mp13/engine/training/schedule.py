"""How the learning rate goes over a run, as a share of its peak. The formulas of Transformers. No torch."""

import math
from collections.abc import Callable

from mp13.engine.training.config import TrainConfig


def schedule(config: TrainConfig, total_steps: int) -> Callable[[int], float]:
    """From the number of an optimizer step, counted from 0, to what its learning rate is multiplied with."""
    warmup = math.ceil(total_steps * config.warmup_ratio) if config.warmup_steps is None else config.warmup_steps

    def share(step: int) -> float:
        if step < warmup:
            return step / max(1, warmup)
        done = (step - warmup) / max(1, total_steps - warmup)  # 0 to 1
        if config.schedule == "cosine":
            return max(0.0, 0.5 * (1 + math.cos(math.pi * done)))
        return max(0.0, 1 - done) if config.schedule == "linear" else 1.0

    return share
