"""Several adapters of one linear layer, and what they add to its output.

LoRA (Hu et al. 2021) adds to a linear layer the product of two thin matrices, `y = W x + s B (A x)`. Tokens of
different adapters, of mixes and of the base share the batch. How the products are best computed depends on how many
there are; a DoRA's factor on W x is the same either way.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property

import torch

from mp13.engine.linear.base_weight import BaseWeight
from mp13.engine.linear.delta import LinearDelta
from mp13.engine.linear.lora_batch import Layout, LoraBatch
from mp13.engine.linear.lora_tables import LoraTables
from mp13.engine.linear.stacked_lora import StackedLora


class GatheredLora:
    """`adapters` are in the order of the batch's slots; each maps a part of the linear to what it adds there."""

    def __init__(
        self,
        adapters: Sequence[Mapping[int, LinearDelta]],
        part_sizes: Sequence[int],
        base: BaseWeight,
        *,
        copies: bool = False,
    ) -> None:
        """With `copies` a single adapter's tensors are copied, too, and nothing here is shared with `adapters` once
        they are `lodged`."""
        self._adapters, self._part_sizes, self._base, self._copies = adapters, part_sizes, base, copies
        self._is_empty = not any(adapters)
        gains = [(i, gain) for i, deltas in enumerate(adapters) if (gain := self._gain(deltas)) is not None]
        self._gains = torch.stack([gain for _, gain in gains]) if gains else None  # (adapters with one, out_features)
        self._gain_layout: Layout = tuple((i, 1) for i, _ in gains)

    def add_to(self, y: torch.Tensor, x: torch.Tensor, lora: LoraBatch) -> None:
        """y += Σ weight * δ(x), in place. y: (T, out_features), the base's own; x: (T, in_features)"""
        if self._is_empty:
            return
        if self._gains is not None:
            _scale_base(y, self._gains, lora.over(self._gain_layout), self._base.bias)
        if self._base.is_packed and (pairs := lora.pairs) is not None:
            self._tables.add_to(y, x, pairs)
        else:
            self._stacked.add_to(y, x, lora)

    @cached_property
    def _tables(self) -> LoraTables:
        return LoraTables(self._adapters, self._part_sizes)

    @cached_property
    def _stacked(self) -> StackedLora:
        return StackedLora(self._adapters, self._part_sizes, copies=self._copies)

    def lodged(self) -> Sequence[Mapping[int, LinearDelta]]:
        """The same adapters, their A and B now places in what lies side by side here, so that the old ones can go."""
        if not self._is_empty:
            self._adapters = self._stacked.lodged(self._adapters)
        return self._adapters

    def _gain(self, deltas: Mapping[int, LinearDelta]) -> torch.Tensor | None:
        """(out_features,), 0 in parts that have none; None where no part has one."""
        gains = [deltas[part].gain if part in deltas else None for part in range(len(self._part_sizes))]
        found = next((gain for gain in gains if gain is not None), None)
        if found is None:
            return None
        return torch.cat([found.new_zeros(n) if g is None else g for g, n in zip(gains, self._part_sizes, strict=True)])


def _scale_base(y: torch.Tensor, gains: torch.Tensor, weights: torch.Tensor | None, bias: torch.Tensor | None) -> None:
    """y += gain * W x, where y is W x + bias. gains: (n, out_features), weights: (T, n) or None for ones"""
    gain = gains.sum(0) if weights is None else weights.to(gains.dtype) @ gains  # (out_features,) or (T, out_features)
    y.addcmul_(y if bias is None else y - bias, gain.to(y.dtype))
