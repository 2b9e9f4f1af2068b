"""The base model's own weight in a linear layer, kept in the form that is fast on this machine.

On x86 CPUs bfloat16 is kept in blocks, laid out for the cache; torch would lay a plain matrix out anew in every call.
With bfloat16 instructions oneDNN multiplies: twice as fast for one row, a third faster for eight. Without them torch
would multiply in a scalar loop; there FBGEMM keeps the same number of bytes as float16 and multiplies in float32: twice
as fast for one row, five times for eight. Every bfloat16 number from 2⁻¹⁴ to 65504 is exact in float16; smaller ones
are off by at most 2⁻²⁵.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

_LARGEST_HALF = 65504.0


class BaseWeight(nn.Module):
    """x -> x Wᵀ + b. `shape` is (out_features, in_features); beside it, adapters are kept in `adapter_dtype`.

    Gradients flow through it to its input; it gets none.
    """

    is_packed = True
    bias: torch.Tensor | None

    def __init__(self, shape: torch.Size, device: torch.device, adapter_dtype: torch.dtype) -> None:
        super().__init__()
        self.shape, self.device, self.adapter_dtype = shape, device, adapter_dtype

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if torch.is_grad_enabled() and x.requires_grad:
            y: torch.Tensor = _Product.apply(x, self)  # type: ignore[no-untyped-call]
            return y
        return self.product(x)

    def product(self, x: torch.Tensor) -> torch.Tensor:
        """The same outside of autograd. x: (..., in_features), of any dtype, which is the result's, too"""
        raise NotImplementedError

    def grad_input(self, grad: torch.Tensor) -> torch.Tensor:
        """grad W: the gradient of x from that of the product. grad: (..., out_features)"""
        raise NotImplementedError

    @contextmanager
    def unpacked(self) -> Iterator[None]:
        """Within, what `grad_input` would lay out anew in every call is laid out once."""
        yield

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """Rows of W as they are multiplied with, float32 (stop - start, in_features); the bias is no part of them."""
        raise NotImplementedError


class DenseWeight(BaseWeight):
    is_packed = False

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__(weight.shape, weight.device, weight.dtype)
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)

    def product(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x.to(self.weight.dtype), self.weight, self.bias).to(x.dtype)

    def grad_input(self, grad: torch.Tensor) -> torch.Tensor:
        return (grad.to(self.weight.dtype) @ self.weight).to(grad.dtype)

    def rows(self, start: int, stop: int) -> torch.Tensor:
        return self.weight[start:stop].float()


class _PackedWeight(BaseWeight):
    """Kept in a form that is good for x Wᵀ alone: for gradients W is laid out plainly, for the moment."""

    _plain: torch.Tensor | None = None

    def grad_input(self, grad: torch.Tensor) -> torch.Tensor:
        weight = self.plain() if self._plain is None else self._plain
        return (grad.to(weight.dtype) @ weight).to(grad.dtype)

    @contextmanager
    def unpacked(self) -> Iterator[None]:
        self._plain = self.plain()
        try:
            yield
        finally:
            self._plain = None

    def rows(self, start: int, stop: int) -> torch.Tensor:
        return self.plain()[start:stop].float()

    def plain(self) -> torch.Tensor:
        """W, (out_features, in_features), in the dtype in which it is multiplied with."""
        raise NotImplementedError


class BlockedBfloat16Weight(_PackedWeight):
    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__(weight.shape, weight.device, torch.bfloat16)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
        self._blocks: torch.Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, None)

    def product(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
            x.to(torch.bfloat16), self._blocks, self.bias, "none", [], ""
        )
        return y.to(x.dtype)

    def plain(self) -> torch.Tensor:
        """Takes a twentieth of what the product with 1000 rows does."""
        weight: torch.Tensor = self._blocks.to_dense()
        return weight


class PackedHalfWeight(_PackedWeight):
    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__(weight.shape, weight.device, torch.float32)
        self.bias = None if bias is None else nn.Parameter(bias.float(), requires_grad=False)
        self._packed = torch.ops.quantized.linear_prepack_fp16(weight.float(), self.bias)

    def product(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = torch.ops.quantized.linear_dynamic_fp16(x.float(), self._packed)
        return y.to(x.dtype)

    def plain(self) -> torch.Tensor:
        """FBGEMM cannot give it back in 16 bits."""
        weight: torch.Tensor = torch.ops.quantized.linear_unpack_fp16(self._packed)[0]
        return weight.float()


class _Product(torch.autograd.Function):
    """Keeps no activation and no weight for the way back."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: BaseWeight) -> torch.Tensor:
        ctx.weight = weight
        return weight.product(x)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        (grad,) = grads
        weight: BaseWeight = ctx.weight
        return weight.grad_input(grad), None


def base_weight(weight: torch.Tensor, bias: torch.Tensor | None = None) -> BaseWeight:
    """weight: (out_features, in_features), bias: (out_features,) or None, in the faster form for where they are."""
    if weight.dtype != torch.bfloat16 or not _has_fbgemm(weight.device):
        return DenseWeight(weight, bias)
    if has_fast_bfloat16():
        return BlockedBfloat16Weight(weight, bias)
    if weight.abs().max() <= _LARGEST_HALF:
        return PackedHalfWeight(weight, bias)
    return DenseWeight(weight.float(), None if bias is None else bias.float())


def packs(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether weights of this kind are packed as float16 here. Their products are float32, so activations are best left
    so."""
    return dtype == torch.bfloat16 and _has_fbgemm(device) and not has_fast_bfloat16()


def _has_fbgemm(device: torch.device) -> bool:
    return device.type == "cpu" and torch.backends.quantized.engine in ("fbgemm", "x86")


@cache
def has_fast_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 with instructions of its own."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
