"""The base model's own weight in a linear layer, kept in the form that is fast on this machine.

On x86 CPUs bfloat16 is kept in blocks, laid out for the cache; torch would lay a plain matrix out anew in every call.
With bfloat16 instructions oneDNN multiplies: twice as fast for one row, a third faster for eight. Without them torch
would multiply in a scalar loop; there FBGEMM keeps the same number of bytes as float16 and multiplies in float32: twice
as fast for one row, five times for eight. Every bfloat16 number from 2⁻¹⁴ to 65504 is exact in float16; smaller ones
are off by at most 2⁻²⁵.
"""

from functools import cache

import torch
from torch import nn
from torch.nn import functional as F

_LARGEST_HALF = 65504.0


class BaseWeight(nn.Module):
    """x -> x Wᵀ + b. `shape` is (out_features, in_features); beside it, adapters are kept in `adapter_dtype`."""

    is_packed = True
    bias: torch.Tensor | None

    def __init__(self, shape: torch.Size, device: torch.device, adapter_dtype: torch.dtype) -> None:
        super().__init__()
        self.shape, self.device, self.adapter_dtype = shape, device, adapter_dtype

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """Rows of W as they are multiplied with, float32 (stop - start, in_features); the bias is no part of them."""
        raise NotImplementedError


class DenseWeight(BaseWeight):
    is_packed = False

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__(weight.shape, weight.device, weight.dtype)
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x.to(self.weight.dtype), self.weight, self.bias).to(x.dtype)

    def rows(self, start: int, stop: int) -> torch.Tensor:
        return self.weight[start:stop].float()


class BlockedBfloat16Weight(BaseWeight):
    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__(weight.shape, weight.device, torch.bfloat16)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
        self._blocks: torch.Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
            x.to(torch.bfloat16), self._blocks, self.bias, "none", [], ""
        )
        return y.to(x.dtype)

    def rows(self, start: int, stop: int) -> torch.Tensor:
        return self._blocks.to_dense()[start:stop].float()


class PackedHalfWeight(BaseWeight):
    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__(weight.shape, weight.device, torch.float32)
        self.bias = None if bias is None else nn.Parameter(bias.float(), requires_grad=False)
        self._packed = torch.ops.quantized.linear_prepack_fp16(weight.float(), self.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = torch.ops.quantized.linear_dynamic_fp16(x.float(), self._packed)
        return y.to(x.dtype)

    def rows(self, start: int, stop: int) -> torch.Tensor:
        weight: torch.Tensor = torch.ops.quantized.linear_unpack_fp16(self._packed)[0]
        return weight[start:stop].float()


def base_weight(weight: torch.Tensor, bias: torch.Tensor | None = None) -> BaseWeight:
    """weight: (out_features, in_features), bias: (out_features,) or None, in the faster form for where they are."""
    if weight.dtype != torch.bfloat16 or not _has_fbgemm(weight.device):
        return DenseWeight(weight, bias)
    if _has_fast_bfloat16():
        return BlockedBfloat16Weight(weight, bias)
    if weight.abs().max() <= _LARGEST_HALF:
        return PackedHalfWeight(weight, bias)
    return DenseWeight(weight.float(), None if bias is None else bias.float())


def packs(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether weights of this kind are packed as float16 here. Their products are float32, so activations are best left
    so."""
    return dtype == torch.bfloat16 and _has_fbgemm(device) and not _has_fast_bfloat16()


def _has_fbgemm(device: torch.device) -> bool:
    return device.type == "cpu" and torch.backends.quantized.engine in ("fbgemm", "x86")


@cache
def _has_fast_bfloat16() -> bool:
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
