"""The resident adapters of one linear layer, each in a slot. What a step uses is gathered when it changes, and serves
step after step: adapters that lie in other slots cost nothing."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence

import torch

from mp13.engine.linear.base_weight import BaseWeight
from mp13.engine.linear.delta import LinearDelta
from mp13.engine.linear.gathered_lora import GatheredLora
from mp13.engine.linear.lora_batch import LoraBatch

# Adapters in gatherings that are kept beside the latest, all told: between two adapters, or one and their comparison,
# people go back and forth; larger ones would take more memory than the adapters themselves.
_KEPT = 4


class LoraStack:
    """The linear's output may be packed from parts (q, k and v, say); each part has deltas of its own.

    On a GPU, where memory is dearer than time, a gathering is no second copy: the adapters in it move into it, and out
    again when another takes its place.
    """

    def __init__(self, part_sizes: Sequence[int], base: BaseWeight) -> None:
        self._part_sizes = part_sizes
        self._base = base
        self._deltas: dict[int, dict[int, LinearDelta]] = {}  # slot -> part -> what it adds there
        self._gathered: OrderedDict[tuple[int, ...], GatheredLora] = OrderedDict()  # by slots, the latest last
        self._on_gpu = base.device.type == "cuda"
        self._lodgers: set[int] = set()  # slots whose tensors are places in the one gathering

    def write(self, slot: int, deltas: Mapping[int, LinearDelta]) -> None:
        """Put an adapter into `slot`, in place of what was there. `deltas` maps a part to what it adds."""
        self.erase(slot)
        if deltas:
            dtype, device = self._base.adapter_dtype, self._base.device
            self._deltas[slot] = {part: delta.to(dtype, device) for part, delta in deltas.items()}

    def erase(self, slot: int) -> None:
        if slot in self._lodgers:
            self._move_out()
            self._lodgers = set()
        self._deltas.pop(slot, None)
        for slots in [slots for slots in self._gathered if slot in slots]:
            del self._gathered[slots]

    def add_to(self, y: torch.Tensor, x: torch.Tensor, lora: LoraBatch) -> None:
        """y += Σ weight * δ(x), in place. y: (T, out_features), the base's own; x: (T, in_features)"""
        self._gather(lora.slots).add_to(y, x, lora)

    def _gather(self, slots: tuple[int, ...]) -> GatheredLora:
        gathered = self._gathered.get(slots)
        if gathered is None and self._on_gpu:
            gathered = self._move_in(slots)
        elif gathered is None:
            adapters = [self._deltas.get(slot, {}) for slot in slots]
            gathered = self._gathered[slots] = GatheredLora(adapters, self._part_sizes, self._base)
            while len(self._gathered) > 1 and sum(map(len, self._gathered)) > _KEPT:
                self._gathered.popitem(last=False)
        else:
            self._gathered.move_to_end(slots)
        return gathered

    def _move_in(self, slots: tuple[int, ...]) -> GatheredLora:
        """Gather, and let what was gathered before go. At no time is more than this layer's adapters held twice."""
        self._move_out(staying=slots)
        adapters = [self._deltas.get(slot, {}) for slot in slots]
        gathered = GatheredLora(adapters, self._part_sizes, self._base, copies=True)
        self._gathered = OrderedDict({slots: gathered})
        self._deltas.update({slot: dict(d) for slot, d in zip(slots, gathered.lodged(), strict=True) if d})
        self._lodgers = set(slots)
        return gathered

    def _move_out(self, staying: tuple[int, ...] = ()) -> None:
        """Give those that lodge in the gathering tensors of their own again; not those that move on at once."""
        for slot in self._lodgers.intersection(self._deltas).difference(staying):
            self._deltas[slot] = {
                part: LinearDelta(delta.a.clone(), delta.b.clone(), delta.gain)
                for part, delta in self._deltas[slot].items()
            }
