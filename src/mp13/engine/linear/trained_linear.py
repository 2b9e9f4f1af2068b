"""The part of one linear in an adapter that is being trained: its A and B, and what they add, with gradients.

y = W x + s B A x (LoRA, Hu et al. 2021). DoRA (Liu et al. 2024) turns W + s B A so that its rows have lengths m:
y = c (W x + s B A x) with c = m / ‖W + s B A‖, the norm taken for a constant on the way back, as its authors do.
The base weight is the one that answers: nothing of it is copied, and it gets no gradient.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from mp13.engine.linear.base_weight import BaseWeight

Dropout = Callable[[torch.Tensor], torch.Tensor]  # from x to its mask, of 0 and 1 / (1 - p)


@dataclass(frozen=True)
class TrainedPart:
    """One module of a packed linear. `magnitude` (out_features,) is DoRA's m; a `b` without gradient is frozen."""

    rows: slice  # of the linear's output
    columns: slice  # of A x, where all parts' A lie one under the other
    b: torch.Tensor  # (out_features, rank)
    magnitude: torch.Tensor | None = None


class TrainedLinear:
    """
    Args:
        a: (all parts' ranks, in_features), a leaf with a gradient, like each part's tensors.
        dtype: of the adapter's products.
        frozen_a: behind `a`, those of the frozen parts.
    """

    def __init__(
        self,
        base: BaseWeight,
        a: torch.Tensor,
        parts: list[TrainedPart],
        scale: float,
        dtype: torch.dtype,
        frozen_a: torch.Tensor | None = None,
    ) -> None:
        self.base, self.a, self.parts, self.scale, self.dtype = base, a, parts, scale, dtype
        self._frozen_a = frozen_a
        self._norms: list[torch.Tensor] = []
        self.weights_changed()

    def __call__(self, x: torch.Tensor, dropout: Dropout | None) -> torch.Tensor:
        """x: (..., in_features) -> (..., out_features)"""
        rows = x.reshape(-1, x.shape[-1])
        return self._product(rows, None if dropout is None else dropout(rows)).view(*x.shape[:-1], -1)

    @torch.no_grad()
    def weights_changed(self) -> None:
        """To be called after each change of the tensors: DoRA's norms are taken anew."""
        self._norms = [self.norm(part) for part in self.parts if part.magnitude is not None]

    def norm(self, part: TrainedPart) -> torch.Tensor:
        """‖W + s B A‖ by row, float32 (out_features,)"""
        weight = self.base.rows(part.rows.start, part.rows.stop)
        change = torch.addmm(weight, part.b.float(), self.a[part.columns].float(), alpha=self.scale)
        return torch.linalg.vector_norm(change, dim=1)

    def _product(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        if not self._norms:
            return self._lora(x, mask)
        if mask is None:
            return self._turned(x)
        dropped = x * mask  # in PEFT, too, what DoRA changes is computed from the input that is left
        return self.base(x) + self._turned(dropped) - self.base(dropped)

    def _lora(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        a = self.a if self._frozen_a is None else torch.cat([self.a, self._frozen_a])
        y: torch.Tensor = _Lora.apply(x, self, mask, a, *(p.b for p in self.parts))  # type: ignore[no-untyped-call]
        return y

    def _turned(self, x: torch.Tensor) -> torch.Tensor:
        y, bias = self._lora(x, None), self.base.bias
        y = y if bias is None else y - bias
        y = y * self._lengths().to(y.dtype)
        return y if bias is None else y + bias

    def _lengths(self) -> torch.Tensor:
        """c, 1 where no part is (out_features,)"""
        lengths = self.a.new_ones(self.base.shape[0])
        for part, norm in zip(self.parts, self._norms, strict=True):
            assert part.magnitude is not None
            lengths = lengths.slice_scatter(part.magnitude / norm, 0, part.rows.start, part.rows.stop)
        return lengths


class _Lora(torch.autograd.Function):
    """W x + s B A x in one node. Keeps x and the thin A x alone."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, linear: TrainedLinear, mask: torch.Tensor | None, a: torch.Tensor, *b: torch.Tensor
    ) -> torch.Tensor:
        """x: (T, in_features) -> (T, out_features)"""
        dtype = linear.dtype
        y = linear.base.product(x)
        given = x if mask is None else x * mask
        h = given.to(dtype) @ a.to(dtype).T  # (T, ranks)
        for part, part_b in zip(linear.parts, b, strict=True):
            _add_product(y[:, part.rows], h[:, part.columns], part_b.to(dtype).T, linear.scale)
        ctx.linear = linear
        ctx.save_for_backward(given, h, mask, a, *b)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (grad,) = grads
        linear: TrainedLinear = ctx.linear
        given, h, mask, a, *b = ctx.saved_tensors
        dtype = h.dtype
        grad_h = torch.empty_like(h)
        grad_b: list[torch.Tensor | None] = []
        for part, part_b in zip(linear.parts, b, strict=True):
            grad_y = grad[:, part.rows].to(dtype)
            grad_h[:, part.columns] = (grad_y @ part_b.to(dtype)).mul_(linear.scale)
            is_frozen = not part.b.requires_grad
            grad_b.append(None if is_frozen else (grad_y.T @ h[:, part.columns]).to(part_b.dtype).mul_(linear.scale))
        grad_a = (grad_h.T @ given.to(dtype)).to(a.dtype)
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = linear.base.grad_input(grad)
            if mask is None:
                _add_product(grad_x, grad_h, a.to(dtype), 1.0)
            else:
                grad_x += (grad_h @ a.to(dtype)).mul_(mask)
        return grad_x, None, None, grad_a, *grad_b


def _add_product(y: torch.Tensor, h: torch.Tensor, w: torch.Tensor, scale: float) -> None:
    """y += scale * h w, in place."""
    if y.dtype == h.dtype:
        y.addmm_(h, w, alpha=scale)
    else:  # adapters in float32 beside bfloat16 activations
        y.add_(h @ w, alpha=scale)
