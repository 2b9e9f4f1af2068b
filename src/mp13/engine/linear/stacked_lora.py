"""Several adapters of one linear layer laid side by side, for steps of many tokens, plain weights and GPUs.

With the A of all adapters in one matrix, and the B likewise, one product gives `h = A x` for all of them, a
multiplication scales each token's h by the weights its own mix gives each adapter, and a second product adds `B h`.
"""

from collections.abc import Mapping, Sequence

import torch

from mp13.engine.linear.delta import LinearDelta
from mp13.engine.linear.lora_batch import Layout, LoraBatch


class StackedLora:
    """`adapters` are in the order of the batch's slots; each maps a part of the linear to what it adds there.

    Columns of h go part by part, and adapter by adapter within a part.
    """

    def __init__(
        self, adapters: Sequence[Mapping[int, LinearDelta]], part_sizes: Sequence[int], *, copies: bool
    ) -> None:
        """With `copies` a single adapter's tensors are copied, too, and nothing here is shared with `adapters`."""
        lay = torch.cat if copies else _side_by_side
        self._part_sizes = list(part_sizes)
        by_part = [[(i, d[part]) for i, d in enumerate(adapters) if part in d] for part in range(len(part_sizes))]
        self._a = lay([delta.a for found in by_part for _, delta in found]).T  # (in_features, columns)
        self._b = [lay([delta.b.T for _, delta in found]) if found else None for found in by_part]
        self._columns = [sum(delta.a.shape[0] for _, delta in found) for found in by_part]
        self._layout: Layout = tuple((i, delta.a.shape[0]) for found in by_part for i, delta in found)

    def add_to(self, y: torch.Tensor, x: torch.Tensor, lora: LoraBatch) -> None:
        """y += Σ weight * B A x, in place. y: (T, out_features), x: (T, in_features)"""
        h = torch.mm(x.to(self._a.dtype), self._a)  # (T, columns)
        weights = lora.over(self._layout)
        if weights is not None:
            h.mul_(weights)  # in place: float32 weights on a bfloat16 h round only once
        h_parts, y_parts = torch.split(h, self._columns, 1), torch.split(y, self._part_sizes, 1)
        for h_part, y_part, b_part in zip(h_parts, y_parts, self._b, strict=True):
            if b_part is not None:
                _add_product(y_part, h_part, b_part)

    def lodged(self, adapters: Sequence[Mapping[int, LinearDelta]]) -> list[dict[int, LinearDelta]]:
        """`adapters`, their A and B now places in what lies side by side here."""
        lodged: list[dict[int, LinearDelta]] = [{} for _ in adapters]
        column = 0
        for part, b in enumerate(self._b):
            place = 0
            for i, deltas in enumerate(adapters):
                if part in deltas and b is not None:
                    rank = deltas[part].a.shape[0]
                    own_a, own_b = self._a.T[column : column + rank], b[place : place + rank].T
                    lodged[i][part] = LinearDelta(own_a, own_b, deltas[part].gain)
                    column, place = column + rank, place + rank
        return lodged


def _side_by_side(matrices: list[torch.Tensor]) -> torch.Tensor:
    return matrices[0] if len(matrices) == 1 else torch.cat(matrices)


def _add_product(y: torch.Tensor, h: torch.Tensor, b: torch.Tensor) -> None:
    if y.dtype == b.dtype:
        y.addmm_(h, b)
    else:  # adapters in float32 beside bfloat16 activations
        y.add_(h @ b)
