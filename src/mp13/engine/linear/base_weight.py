"""The base model's own weight in a linear layer, kept in the form that is fast on this machine.

On x86 CPUs without bfloat16 instructions torch multiplies bfloat16 rows in a scalar loop. FBGEMM keeps the same number
of bytes as float16, packed for the cache, and multiplies in float32: twice as fast for one row, five times for eight.
Every bfloat16 number from 2⁻¹⁴ to 65504 is exact in float16; smaller ones are off by at most 2⁻²⁵.
"""

from functools import cache

import torch
from torch import nn
from torch.nn import functional as F

_LARGEST_HALF = 65504.0


class BaseWeight(nn.Module):
    """x -> x Wᵀ + b. `shape` is (out_features, in_features); beside it, adapters are fastest in `adapter_dtype`."""

    def __init__(self, weight: torch.Tensor, adapter_dtype: torch.dtype) -> None:
        super().__init__()
        self.shape, self.adapter_dtype, self.device = weight.shape, adapter_dtype, weight.device


class DenseWeight(BaseWeight):
    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__(weight, weight.dtype)
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x.to(self.weight.dtype), self.weight, self.bias).to(x.dtype)


class PackedHalfWeight(BaseWeight):
    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__(weight, torch.float32)
        wide_bias = None if bias is None else bias.float()
        self._packed = torch.ops.quantized.linear_prepack_fp16(weight.float(), wide_bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = torch.ops.quantized.linear_dynamic_fp16(x.float(), self._packed)
        return y.to(x.dtype)


def base_weight(weight: torch.Tensor, bias: torch.Tensor | None = None) -> BaseWeight:
    """weight: (out_features, in_features), bias: (out_features,) or None, in the faster form for where they are."""
    if not packs(weight.dtype, weight.device):
        return DenseWeight(weight, bias)
    if weight.abs().max() <= _LARGEST_HALF:
        return PackedHalfWeight(weight, bias)
    return DenseWeight(weight.float(), None if bias is None else bias.float())


def packs(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether weights of this kind are packed here. Their products are float32, so activations are best left so."""
    return device.type == "cpu" and dtype == torch.bfloat16 and _packing_pays()


@cache
def _packing_pays() -> bool:
    fast_bfloat16 = bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return not fast_bfloat16 and torch.backends.quantized.engine in ("fbgemm", "x86")
