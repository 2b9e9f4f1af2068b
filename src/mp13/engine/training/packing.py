"""Which samples are computed together, and in which order: packing and sampling. Pure Python, no torch.

Everything follows from seed and step alone, so that a run that goes on needs to remember nothing of it.
"""

import math
import random
from bisect import bisect_left, insort
from collections.abc import Sequence

from mp13.engine.training.config import TrainConfig

Pack = tuple[int, ...]  # numbers of samples


def pack(lens: Sequence[int], capacity: int) -> list[Pack]:
    """Samples of these lengths in rows of at most `capacity`, by best-fit decreasing: each, the longest first, goes
    where it leaves the least room. Among equals their order decides."""
    rows: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (what is free, row), ascending
    for sample in sorted(range(len(lens)), key=lambda i: -lens[i]):
        place = bisect_left(room, (lens[sample], -1))
        if place == len(room):
            free, row = capacity, len(rows)
            rows.append([])
        else:
            free, row = room.pop(place)
        rows[row].append(sample)
        if free > lens[sample]:
            insort(room, (free - lens[sample], row))
    return [tuple(row) for row in rows]


class Sampler:
    """Which packs make each optimizer step. Every epoch shuffles the samples and packs them anew; how many packs come
    out depends on the lengths alone. An epoch's last step may have fewer than `accumulation`."""

    def __init__(self, lens: Sequence[int], config: TrainConfig) -> None:
        self._lens, self._config = tuple(lens), config
        self._last: tuple[int, list[Pack]] | None = None  # the epoch that was asked for last, and its packs
        self.packs_per_epoch = len(self._epoch(0))
        self.steps_per_epoch = math.ceil(self.packs_per_epoch / config.accumulation)
        self.total_steps = config.steps or math.ceil(self.steps_per_epoch * config.epochs)

    def step(self, number: int) -> list[Pack]:
        """The packs of optimizer step `number`, from 0 on."""
        epoch, step = divmod(number, self.steps_per_epoch)
        start = step * self._config.accumulation
        return self._epoch(epoch)[start : start + self._config.accumulation]

    def _epoch(self, epoch: int) -> list[Pack]:
        if self._last is None or self._last[0] != epoch:
            self._last = epoch, self._drawn(epoch)
        return self._last[1]

    def _drawn(self, epoch: int) -> list[Pack]:
        draw = random.Random(f"epoch {self._config.seed} {epoch}")
        order = list(range(len(self._lens)))
        draw.shuffle(order)
        if self._config.batch_rows is not None:
            size = self._config.batch_rows
            return [tuple(order[i : i + size]) for i in range(0, len(order), size)]
        packs = pack([self._lens[i] for i in order], self._config.batch_tokens)
        draw.shuffle(packs)
        return [tuple(order[i] for i in row) for row in packs]
