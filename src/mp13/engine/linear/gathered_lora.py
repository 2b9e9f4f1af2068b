"""Several adapters of one linear layer side by side, and what they add to its output.

LoRA (Hu et al. 2021) adds to a linear layer the product of two thin matrices, `y = W x + s B (A x)`. With the A of all
adapters laid side by side, and the B likewise, one product gives `h = A x` for all of them, a multiplication scales
each token's h by the weights its own mix gives each adapter, and a second product adds `B h`. Tokens of different
adapters, of mixes and of the base (all weights 0) share the batch.
"""

from collections.abc import Mapping, Sequence

import torch

from mp13.engine.linear.base_weight import BaseWeight
from mp13.engine.linear.delta import LinearDelta
from mp13.engine.linear.lora_batch import Layout, LoraBatch

# Packing costs about as much as it saves in so many steps. It pays for a few tokens; many share the cost of a plain
# product's own packing.
_STEPS_BEFORE_PACKING = 8
_FEW_TOKENS = 64


class GatheredLora:
    """`adapters` are in the order of the batch's slots; each maps a part of the linear to what it adds there.

    Columns of h go part by part, and adapter by adapter within a part.
    """

    def __init__(
        self, adapters: Sequence[Mapping[int, LinearDelta]], part_sizes: Sequence[int], base: BaseWeight
    ) -> None:
        self._base, self._part_sizes = base, list(part_sizes)
        by_part = [
            [(i, deltas[part]) for i, deltas in enumerate(adapters) if part in deltas]
            for part in range(len(part_sizes))
        ]
        a = [delta.a for found in by_part for _, delta in found]
        self._a = _side_by_side(a).T if a else None  # (in_features, columns)
        self._b = [_side_by_side([delta.b.T for _, delta in found]) if found else None for found in by_part]
        self._columns = [sum(delta.a.shape[0] for _, delta in found) for found in by_part]
        self._layout: Layout = tuple((i, delta.a.shape[0]) for found in by_part for i, delta in found)
        gains = [(i, gain) for i, deltas in enumerate(adapters) if (gain := self._gain(deltas)) is not None]
        self._gains = torch.stack([gain for _, gain in gains]) if gains else None  # (adapters with one, out_features)
        self._gain_layout: Layout = tuple((i, 1) for i, _ in gains)
        self._packed: tuple[BaseWeight, BaseWeight] | None = None
        self._steps_until_packing = _STEPS_BEFORE_PACKING

    def add_to(self, y: torch.Tensor, x: torch.Tensor, lora: LoraBatch) -> None:
        """y += Σ weight * δ(x), in place. y: (T, out_features), the base's own; x: (T, in_features)"""
        if self._gains is not None:
            _scale_base(y, self._gains, lora.over(self._gain_layout), self._base.bias)
        if self._a is None:
            return
        weights = lora.over(self._layout)
        if x.shape[0] <= _FEW_TOKENS:
            self._count_step()
            if self._packed is not None:
                a, b = self._packed
                h = a(x)
                y.add_(b(h if weights is None else h.mul_(weights)))
                return
        h = torch.mm(x.to(self._a.dtype), self._a)  # (T, columns)
        if weights is not None:
            h.mul_(weights)  # in place: float32 weights on a bfloat16 h round only once
        h_parts, y_parts = torch.split(h, self._columns, 1), torch.split(y, self._part_sizes, 1)
        for h_part, y_part, b_part in zip(h_parts, y_parts, self._b, strict=True):
            if b_part is not None:
                _add_product(y_part, h_part, b_part)

    def _count_step(self) -> None:
        self._steps_until_packing -= 1
        if self._steps_until_packing == 0 and self._a is not None:
            blocks = torch.zeros(sum(self._part_sizes), sum(self._columns), dtype=self._a.dtype, device=self._a.device)
            for part, b in enumerate(self._b):
                if b is not None:
                    row, column = sum(self._part_sizes[:part]), sum(self._columns[:part])
                    blocks[row : row + b.shape[1], column : column + b.shape[0]] = b.T
            packed = self._base.pack(self._a.T), self._base.pack(blocks)
            if packed[0] is not None and packed[1] is not None:
                self._packed = packed[0], packed[1]

    def _gain(self, deltas: Mapping[int, LinearDelta]) -> torch.Tensor | None:
        """(out_features,), 0 in parts that have none; None where no part has one."""
        gains = [deltas[part].gain if part in deltas else None for part in range(len(self._part_sizes))]
        found = next((gain for gain in gains if gain is not None), None)
        if found is None:
            return None
        return torch.cat([found.new_zeros(n) if g is None else g for g, n in zip(gains, self._part_sizes, strict=True)])


def _side_by_side(matrices: list[torch.Tensor]) -> torch.Tensor:
    return matrices[0] if len(matrices) == 1 else torch.cat(matrices)


def _scale_base(y: torch.Tensor, gains: torch.Tensor, weights: torch.Tensor | None, bias: torch.Tensor | None) -> None:
    """y += gain * W x, where y is W x + bias. gains: (n, out_features), weights: (T, n) or None for ones"""
    gain = gains.sum(0) if weights is None else weights.to(gains.dtype) @ gains  # (out_features,) or (T, out_features)
    y.addcmul_(y if bias is None else y - bias, gain.to(y.dtype))


def _add_product(y: torch.Tensor, h: torch.Tensor, b: torch.Tensor) -> None:
    if y.dtype == b.dtype:
        y.addmm_(h, b)
    else:  # adapters in float32 beside bfloat16 activations
        y.add_(h @ b)
