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
from mp13.engine.linear.packed_lora import PackedLora

# Steps of few tokens gain from packed matrices, and packing costs as much as is gained in about ten of them.
_FEW_TOKENS = 16
_STEPS_BEFORE_PACKING = 8


class GatheredLora:
    """`adapters` are in the order of the batch's slots; each maps a part of the linear to what it adds there.

    Columns of h go part by part, and adapter by adapter within a part.
    """

    def __init__(
        self,
        adapters: Sequence[Mapping[int, LinearDelta]],
        part_sizes: Sequence[int],
        base: BaseWeight,
        *,
        copies: bool = False,
    ) -> None:
        """With `copies` a single adapter's tensors are copied, too, and nothing here is shared with `adapters`."""
        lay = torch.cat if copies else _side_by_side
        self._base, self._part_sizes = base, list(part_sizes)
        by_part = [[(i, d[part]) for i, d in enumerate(adapters) if part in d] for part in range(len(part_sizes))]
        a = [delta.a for found in by_part for _, delta in found]
        self._a = lay(a).T if a else None  # (in_features, columns)
        self._b = [lay([delta.b.T for _, delta in found]) if found else None for found in by_part]
        self._columns = [sum(delta.a.shape[0] for _, delta in found) for found in by_part]
        self._layout: Layout = tuple((i, delta.a.shape[0]) for found in by_part for i, delta in found)
        gains = [(i, gain) for i, deltas in enumerate(adapters) if (gain := self._gain(deltas)) is not None]
        self._gains = torch.stack([gain for _, gain in gains]) if gains else None  # (adapters with one, out_features)
        self._gain_layout: Layout = tuple((i, 1) for i, _ in gains)
        self._packed: PackedLora | None = None
        self._num_steps = 0  # of few tokens

    def add_to(self, y: torch.Tensor, x: torch.Tensor, lora: LoraBatch) -> None:
        """y += Σ weight * δ(x), in place. y: (T, out_features), the base's own; x: (T, in_features)"""
        if self._gains is not None:
            _scale_base(y, self._gains, lora.over(self._gain_layout), self._base.bias)
        if self._a is None:
            return
        weights = lora.over(self._layout)
        if x.shape[0] <= _FEW_TOKENS and self._base.is_packed:
            if self._num_steps < _STEPS_BEFORE_PACKING:
                self._num_steps += 1
                self._packed = self._pack(self._a) if self._num_steps == _STEPS_BEFORE_PACKING else None
            if self._packed is not None:
                self._packed.add_to(y, x, weights)
                return
        h = torch.mm(x.to(self._a.dtype), self._a)  # (T, columns)
        if weights is not None:
            h.mul_(weights)  # in place: float32 weights on a bfloat16 h round only once
        h_parts, y_parts = torch.split(h, self._columns, 1), torch.split(y, self._part_sizes, 1)
        for h_part, y_part, b_part in zip(h_parts, y_parts, self._b, strict=True):
            if b_part is not None:
                _add_product(y_part, h_part, b_part)

    def lodged(self, adapters: Sequence[Mapping[int, LinearDelta]]) -> list[dict[int, LinearDelta]]:
        """The same adapters, their A and B now places in what lies side by side here, so that the old ones can go."""
        lodged: list[dict[int, LinearDelta]] = [{} for _ in adapters]
        column = 0
        for part, b in enumerate(self._b):
            place = 0
            for i, deltas in enumerate(adapters):
                if part in deltas and self._a is not None and b is not None:
                    rank = deltas[part].a.shape[0]
                    own_a, own_b = self._a.T[column : column + rank], b[place : place + rank].T
                    lodged[i][part] = LinearDelta(own_a, own_b, deltas[part].gain)
                    column, place = column + rank, place + rank
        return lodged

    def _pack(self, a: torch.Tensor) -> PackedLora | None:
        """B of all parts as one matrix, with blocks on its diagonal: one product costs less than one a part."""
        blocks = a.new_zeros(sum(self._part_sizes), sum(self._columns))
        row = column = 0
        for b, num_rows, num_columns in zip(self._b, self._part_sizes, self._columns, strict=True):
            if b is not None:
                blocks[row : row + num_rows, column : column + num_columns] = b.T
            row, column = row + num_rows, column + num_columns
        return PackedLora(a.T, blocks) if PackedLora.can_hold(a, blocks) else None

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
