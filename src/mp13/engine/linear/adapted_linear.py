"""The one linear layer every model uses: a base weight, and beside it the resident LoRA adapters.

LoRA (Hu et al. 2021) adds to a linear layer a product of two thin matrices, `y = W x + s B (A x)`. Here all resident
adapters lie side by side along one *rank axis*, so a step computes `h = A x` for all of them in one product, scales
each token's `h` by the weights its own mix gives each adapter, and adds `B h` in a second product. Tokens of different
adapters, of mixes and of the base (all weights 0) share the batch; switching moves numbers, not tensors.
"""

import torch
from torch import nn
from torch.nn import functional as F

from mp13.engine.context import StepContext
from mp13.engine.linear.base_weight import base_weight

LoraPair = tuple[torch.Tensor, torch.Tensor]  # A (rank, in_features), B (part's out_features, rank), scale folded in B


class AdaptedLinear(nn.Module):
    """`out_features` may be packed from several parts (q, k and v, or gate and up), each with adapters of its own.

    Args:
        weight: (out_features, in_features); bias: (out_features,) or None.
        parts: name and number of output rows of each part, in order; the rows sum to out_features.
    """

    def __init__(
        self, weight: torch.Tensor, bias: torch.Tensor | None, context: StepContext, parts: dict[str, int]
    ) -> None:
        super().__init__()
        self.base = base_weight(weight, bias)
        self.parts = parts
        self.num_parts = len(parts)
        self._context = context
        # The rank axis: column c of part p is row c * num_parts + p, so a range of columns is a contiguous slice.
        self._lora_a: torch.Tensor | None = None  # (columns * num_parts, in_features)
        self._lora_b: torch.Tensor | None = (
            None  # (columns * num_parts, out_features): B transposed, 0 outside its part
        )

    @property
    def in_features(self) -> int:
        return self.base.shape[1]

    @property
    def out_features(self) -> int:
        return self.base.shape[0]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (..., in_features) -> (..., out_features)"""
        y: torch.Tensor = self.base(x)
        lora = self._context.lora
        if lora is None or self._lora_a is None or self._lora_b is None:
            return y
        rows = slice(lora.start * self.num_parts, lora.stop * self.num_parts)
        x = x.reshape(-1, self.in_features).to(self._lora_a.dtype)
        h = F.linear(x, self._lora_a[rows])  # (T, columns * num_parts)
        if (weights := lora.weights[self.num_parts]) is not None:
            h.mul_(weights)  # in place: float32 weights on a bfloat16 h round only once
        y.view(-1, self.out_features).add_(h @ self._lora_b[rows])
        return y

    def reserve(self, num_columns: int) -> None:
        """Widen the rank axis to `num_columns`; what is there stays where it is."""
        if self._lora_a is not None and self._lora_b is not None:
            extra = num_columns * self.num_parts - self._lora_a.shape[0]
            if extra > 0:
                self._lora_a = F.pad(self._lora_a, (0, 0, 0, extra))
                self._lora_b = F.pad(self._lora_b, (0, 0, 0, extra))

    def write(self, start: int, stop: int, num_columns: int, pairs: dict[int, LoraPair]) -> None:
        """Put an adapter on columns `start:stop`. `pairs` maps a part to its A and B; other parts get zeros."""
        if self._lora_a is None or self._lora_b is None:
            if not pairs:
                return
            rows = num_columns * self.num_parts
            dtype, device = self.base.adapter_dtype, self.base.device
            self._lora_a = torch.zeros(rows, self.in_features, dtype=dtype, device=device)
            self._lora_b = torch.zeros(rows, self.out_features, dtype=dtype, device=device)
        a = self._lora_a.view(-1, self.num_parts, self.in_features)[start:stop]
        b = self._lora_b.view(-1, self.num_parts, self.out_features)[start:stop]
        a.zero_()
        b.zero_()
        first_row = 0
        for part, size in enumerate(self.parts.values()):
            if part in pairs:
                lora_a, lora_b = pairs[part]
                a[: lora_a.shape[0], part].copy_(lora_a)
                b[: lora_a.shape[0], part, first_row : first_row + size].copy_(lora_b.T)
            first_row += size
