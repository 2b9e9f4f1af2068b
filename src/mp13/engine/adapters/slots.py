"""Which adapters lie on the device, and on which columns of the linears' rank axis. At most `max_slots` at a time.

An adapter in use is pinned; among the others the one used longest ago makes room.
"""

from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping

import torch

from mp13.engine.adapters.adapter_file import LoadedAdapter
from mp13.engine.linear.adapted_linear import AdaptedLinear
from mp13.engine.linear.lora_stack import LoraPair
from mp13.engine.models.interface import AdapterTarget
from mp13.engine.scheduling.sequence import AdapterWeights


class AdapterSlots:
    """An `AdapterResidency`. `find` gives a loaded adapter by digest."""

    def __init__(
        self, targets: Mapping[str, AdapterTarget], max_slots: int, find: Callable[[str], LoadedAdapter]
    ) -> None:
        self.max_slots = max_slots
        self._targets = targets
        self._linears = list({id(t.linear): t.linear for t in targets.values()}.values())
        self._find = find
        self._columns: OrderedDict[str, tuple[int, int]] = OrderedDict()  # digest -> columns, least recently used first
        self._pins: Counter[str] = Counter()
        self._num_columns = 0

    @property
    def resident(self) -> tuple[str, ...]:
        return tuple(self._columns)

    @property
    def num_pins(self) -> int:
        return self._pins.total()

    def columns_of(self, adapters: AdapterWeights) -> list[tuple[int, int, float]]:
        return [(*self._columns[digest], weight) for digest, weight in adapters if weight != 0.0]

    def acquire(self, adapters: AdapterWeights) -> bool:
        wanted = {digest for digest, weight in adapters if weight != 0.0}
        missing = [digest for digest in sorted(wanted) if digest not in self._columns]
        evictable = [d for d in self._columns if not self._pins[d] and d not in wanted]
        too_many = len(self._columns) + len(missing) - self.max_slots
        if too_many > len(evictable):
            return False
        for digest in evictable[: max(0, too_many)]:
            self.evict(digest)
        for digest in missing:
            self._place(digest)
        for digest in wanted:
            self._columns.move_to_end(digest)
            self._pins[digest] += 1
        return True

    def release(self, adapters: AdapterWeights) -> None:
        for digest, weight in adapters:
            if weight != 0.0:
                self._pins[digest] -= 1
                self._pins += Counter()  # drops zeros

    def evict(self, digest: str) -> None:
        """Forget an adapter that nobody uses; its columns are free to be written over."""
        if self._columns.pop(digest, None) is not None and self._pins[digest]:
            raise RuntimeError(f"adapter {digest} was evicted while in use")

    @torch.no_grad()
    def _place(self, digest: str) -> None:
        adapter = self._find(digest)
        start = self._first_gap(adapter.info.rank)
        stop = start + adapter.info.rank
        if stop > self._num_columns:
            for linear in self._linears:
                linear.reserve(stop)
            self._num_columns = stop
        pairs: dict[AdaptedLinear, dict[int, LoraPair]] = {linear: {} for linear in self._linears}
        for path, pair in adapter.pairs.items():
            target = self._targets[path]
            pairs[target.linear][target.part] = pair
        for linear, parts in pairs.items():
            linear.write(start, stop, self._num_columns, parts)
        self._columns[digest] = (start, stop)

    def _first_gap(self, width: int) -> int:
        position = 0
        for start, stop in sorted(self._columns.values()):
            if start - position >= width:
                break
            position = stop
        return position
