"""The one linear layer every model uses: the base weight, and beside it the resident adapters. Switching adapters moves
numbers, not tensors."""

import torch
from torch import nn

from mp13.engine.context import StepContext
from mp13.engine.linear.base_weight import base_weight
from mp13.engine.linear.lora_stack import LoraPair, LoraStack


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
        self._lora: LoraStack | None = None  # made for the first adapter that changes this layer

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
        if lora is not None and self._lora is not None:
            self._lora.add_to(y.view(-1, self.out_features), x.reshape(-1, self.in_features), lora)
        return y

    def reserve(self, num_columns: int) -> None:
        """Make room for adapters on the first `num_columns` columns of the rank axis."""
        if self._lora is not None:
            self._lora.reserve(num_columns)

    def write(self, start: int, stop: int, num_columns: int, pairs: dict[int, LoraPair]) -> None:
        """Put an adapter on columns `start:stop` of `num_columns`. `pairs` maps a part's number to its A and B."""
        if self._lora is None and pairs:
            self._lora = LoraStack(
                self.in_features, list(self.parts.values()), num_columns, self.base.adapter_dtype, self.base.device
            )
        if self._lora is not None:
            self._lora.write(start, stop, pairs)
