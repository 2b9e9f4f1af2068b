"""Which adapters lie on the device, and in which slot of the linears. At most `max_slots` at a time, and on a GPU no
more than there is room kept for.

An adapter in use is pinned; among the others the one used longest ago makes room. Each lies in tensors of its own, so
ranks need not agree, nobody moves when another comes or goes, and what is held is exactly what is resident.
"""

from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Mapping

import torch

from mp13.engine.adapters.adapter_file import LoadedAdapter
from mp13.engine.linear.adapted_linear import AdaptedLinear
from mp13.engine.linear.delta import LinearDelta
from mp13.engine.linear.lora_batch import SlotWeights
from mp13.engine.models.interface import AdapterTarget
from mp13.engine.scheduling.sequence import AdapterWeights


class AdapterSlots:
    """An `AdapterResidency`. `find` gives an adapter's content by digest; what it raises, `acquire` raises.

    `max_bytes` is what the adapters may take on the device, None where nobody counts; `size_of` gives an adapter's
    bytes there by digest, without reading it.
    """

    def __init__(
        self,
        targets: Mapping[str, AdapterTarget],
        max_slots: int,
        find: Callable[[str], LoadedAdapter],
        size_of: Callable[[str], int],
        max_bytes: int | None = None,
    ) -> None:
        self.max_slots = max_slots
        self._max_bytes = max_bytes
        self._size_of = size_of
        self._targets = targets
        self._linears = list({id(t.linear): t.linear for t in targets.values()}.values())
        self._find = find
        self._slots: OrderedDict[str, int] = OrderedDict()  # digest -> slot, least recently used first
        self._pins: Counter[str] = Counter()

    @property
    def resident(self) -> tuple[str, ...]:
        return tuple(self._slots)

    @property
    def num_pins(self) -> int:
        return self._pins.total()

    def slots_of(self, adapters: AdapterWeights) -> SlotWeights:
        return [(self._slots[digest], weight) for digest, weight in adapters if weight != 0.0]

    def could_hold(self, digests: Collection[str]) -> bool:
        """Whether these adapters, each named once, fit all at once where no other is."""
        if len(digests) > self.max_slots:
            return False
        return self._max_bytes is None or self.bytes_of(digests) <= self._max_bytes

    def bytes_of(self, digests: Collection[str]) -> int:
        """What these adapters take on the device."""
        return sum(map(self._size_of, digests))

    def acquire(self, adapters: AdapterWeights) -> bool:
        """Bring the adapters in and pin them; False, and nothing has changed, while too many others are pinned."""
        wanted = {digest for digest, weight in adapters if weight != 0.0}
        missing = [digest for digest in sorted(wanted) if digest not in self._slots]
        evictable = [d for d in self._slots if not self._pins[d] and d not in wanted]
        num_leaving = 0
        while not self.could_hold(wanted.union(self._slots).difference(evictable[:num_leaving])):
            if num_leaving == len(evictable):
                return False
            num_leaving += 1
        found = [self._find(digest) for digest in missing]  # first, so that a failure leaves everything as it was
        for digest in evictable[:num_leaving]:
            self.evict(digest)
        for digest, adapter in zip(missing, found, strict=True):
            self._place(digest, adapter)
        for digest in wanted:
            self._slots.move_to_end(digest)
            self._pins[digest] += 1
        return True

    def release(self, adapters: AdapterWeights) -> None:
        for digest, weight in adapters:
            if weight != 0.0:
                self._pins[digest] -= 1
                self._pins += Counter()  # drops zeros

    def evict(self, digest: str) -> None:
        """Let go of an adapter that nobody uses."""
        if digest not in self._slots:
            return
        if self._pins[digest]:
            raise RuntimeError(f"adapter {digest} was evicted while in use")
        self._erase(self._slots.pop(digest))

    @torch.no_grad()
    def _place(self, digest: str, adapter: LoadedAdapter) -> None:
        slot = min(set(range(self.max_slots)) - set(self._slots.values()))
        deltas: dict[AdaptedLinear, dict[int, LinearDelta]] = {}
        for path, delta in adapter.deltas.items():
            target = self._targets[path]
            deltas.setdefault(target.linear, {})[target.part] = delta
        try:
            for linear in self._linears:
                linear.write(slot, deltas.get(linear, {}))
        except Exception:  # no room on the device: what is there already makes way
            self._erase(slot)
            raise
        self._slots[digest] = slot

    def _erase(self, slot: int) -> None:
        for linear in self._linears:
            linear.erase(slot)
