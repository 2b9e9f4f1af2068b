"""The resident adapters of one linear layer, side by side along a rank axis, and their share of its output.

LoRA (Hu et al. 2021) adds to a linear layer the product of two thin matrices, `y = W x + s B (A x)`. With the A of all
adapters stacked to one matrix and the B likewise, one product gives `h = A x` for all of them, a multiplication scales
each token's h by the weights its own mix gives each adapter, and a second product adds `B h`. Tokens of different
adapters, of mixes and of the base (all weights 0) share the batch.
"""

from collections.abc import Mapping, Sequence

import torch
from torch.nn import functional as F

from mp13.engine.linear.lora_batch import LoraBatch

LoraPair = tuple[torch.Tensor, torch.Tensor]  # A (rank, in_features), B (part's out_features, rank), scale folded in B


class LoraStack:
    """The linear's output may be packed from parts (q, k and v, say); each part has an A and a B of its own."""

    def __init__(
        self, in_features: int, part_sizes: Sequence[int], num_columns: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self._part_sizes = list(part_sizes)
        self._a = torch.zeros(len(part_sizes), num_columns, in_features, dtype=dtype, device=device)
        self._b = [torch.zeros(num_columns, size, dtype=dtype, device=device) for size in part_sizes]  # B transposed
        self._in_use: tuple[int, int] | None = None  # the columns that _a_used and _b_used show
        self._a_used = self._a
        self._b_used = self._b

    def reserve(self, num_columns: int) -> None:
        """Widen the rank axis to `num_columns`; what is there stays where it is."""
        extra = num_columns - self._a.shape[1]
        if extra > 0:
            self._a = F.pad(self._a, (0, 0, 0, extra))
            self._b = [F.pad(b, (0, 0, 0, extra)) for b in self._b]
            self._in_use = None

    def write(self, start: int, stop: int, pairs: Mapping[int, LoraPair]) -> None:
        """Put an adapter on columns `start:stop`. `pairs` maps a part to its A and B; other parts get zeros."""
        self._a[:, start:stop] = 0
        for part, b in enumerate(self._b):
            b[start:stop] = 0
            if part in pairs:
                lora_a, lora_b = pairs[part]
                end = start + lora_a.shape[0]
                self._a[part, start:end] = lora_a
                b[start:end] = lora_b.T
        self._in_use = None

    def add_to(self, y: torch.Tensor, x: torch.Tensor, lora: LoraBatch) -> None:
        """y += B ((A x) * weights), in place. y: (T, out_features), x: (T, in_features)"""
        if self._in_use != (lora.start, lora.stop):
            self._use(lora.start, lora.stop)
        h = torch.mm(x.to(self._a_used.dtype), self._a_used)  # (T, num_parts * columns)
        if (weights := lora.weights[len(self._b)]) is not None:
            h.mul_(weights)  # in place: float32 weights on a bfloat16 h round only once
        if len(self._b) == 1:
            _add_product(y, h, self._b_used[0])
            return
        for h_part, y_part, b in zip(
            h.chunk(len(self._b), 1), torch.split(y, self._part_sizes, 1), self._b_used, strict=True
        ):
            _add_product(y_part, h_part, b)

    def _use(self, start: int, stop: int) -> None:
        """Prepare views of some columns; the same serve step after step."""
        self._a_used = self._a[:, start:stop].reshape(-1, self._a.shape[2]).T  # (in_features, num_parts * columns)
        self._b_used = [b[start:stop] for b in self._b]
        self._in_use = (start, stop)


def _add_product(y: torch.Tensor, h: torch.Tensor, b: torch.Tensor) -> None:
    if y.dtype == b.dtype:
        y.addmm_(h, b)
    else:  # adapters in float32 beside bfloat16 activations
        y.add_(h @ b)
