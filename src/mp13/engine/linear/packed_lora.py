"""An adapter's two products for steps of few tokens, on x86 CPUs. There a product is over sooner than torch has called
it: FBGEMM's oldest float16 entry costs 1 µs a call, the others 10, and a float32 matrix takes twice as long to read.
"""

import warnings
from functools import cache

import torch

_LARGEST_HALF = 65504.0


class PackedLora:
    """A (columns, in_features) and B (out_features, columns) as float16, multiplied in float32."""

    def __init__(self, a: torch.Tensor, b: torch.Tensor) -> None:
        self._a, self._b = _pack(a), _pack(b)

    @staticmethod
    def can_hold(a: torch.Tensor, b: torch.Tensor) -> bool:
        return _has_fbgemm() and max(float(matrix.abs().max()) for matrix in (a, b)) <= _LARGEST_HALF

    def add_to(self, y: torch.Tensor, x: torch.Tensor, weights: torch.Tensor | None) -> None:
        """y += B ((A x) * weights), in place. y: (T, out_features), x: (T, in_features), weights: (T, columns)"""
        h = _multiply(x.float(), self._a)
        if weights is not None:
            h.mul_(weights)
        y.add_(_multiply(h, self._b))


def _pack(matrix: torch.Tensor) -> torch.Tensor:
    return torch.fbgemm_pack_gemm_matrix_fp16(matrix.float().contiguous())


def _multiply(x: torch.Tensor, packed: torch.Tensor) -> torch.Tensor:
    return torch.fbgemm_linear_fp16_weight_fp32_activation(x, packed, None)


@cache
def _has_fbgemm() -> bool:
    """False where the processor or this version of torch lacks the entry, which torch calls deprecated."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return bool(_multiply(torch.ones(1, 8), _pack(torch.ones(8, 8)))[0, 0] == 8)
        except (AttributeError, TypeError, RuntimeError):
            return False
