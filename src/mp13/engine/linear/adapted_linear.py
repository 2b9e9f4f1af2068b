"""The one linear layer every model uses: the base weight, and beside it the resident adapters. Switching adapters moves
numbers, not tensors."""

from collections.abc import Mapping

import torch
from torch import nn

from mp13.engine.context import StepContext
from mp13.engine.linear.base_weight import BaseWeight
from mp13.engine.linear.delta import LinearDelta
from mp13.engine.linear.lora_stack import LoraStack


class AdaptedLinear(nn.Module):
    """`out_features` may be packed from several parts (q, k and v, or gate and up), each with adapters of its own.

    Args:
        base: the base's own weight, (out_features, in_features), and bias.
        parts: name and number of output rows of each part, in order; the rows sum to out_features.
        of_rows: it sees only the tokens whose logits are wanted, as a model's head does.
    """

    def __init__(
        self,
        base: BaseWeight,
        context: StepContext,
        parts: dict[str, int],
        *,
        of_rows: bool = False,
    ) -> None:
        super().__init__()
        self.out_features, self.in_features = base.shape
        self.base = base
        self.parts = parts
        self.of_rows = of_rows
        self._context = context
        self._lora: LoraStack | None = None  # made for the first adapter that changes this layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (..., in_features) -> (..., out_features)"""
        y: torch.Tensor
        if (training := self._context.training) is not None:
            trained = training.linears.get(self)
            return self.base(x) if trained is None else trained(x, training.dropout)
        y = self.base(x)
        lora = self._context.lora
        if lora is not None and self._lora is not None:
            if self.of_rows:
                lora = lora.of_rows
            if x.dim() > 2:
                self._lora.add_to(y.view(-1, self.out_features), x.reshape(-1, self.in_features), lora)
            else:
                self._lora.add_to(y, x, lora)
        return y

    def part_weight(self, part: int) -> torch.Tensor:
        """The base's weight of part number `part`, float32 (its rows, in_features), without bias."""
        sizes = list(self.parts.values())
        start = sum(sizes[:part])
        return self.base.rows(start, start + sizes[part])

    def write(self, slot: int, deltas: Mapping[int, LinearDelta]) -> None:
        """Put an adapter into `slot`, in place of what was there. `deltas` maps a part's number to what it adds."""
        if self._lora is None and deltas:
            self._lora = LoraStack(list(self.parts.values()), self.base)
        if self._lora is not None:
            self._lora.write(slot, deltas)

    def erase(self, slot: int) -> None:
        if self._lora is not None:
            self._lora.erase(slot)
