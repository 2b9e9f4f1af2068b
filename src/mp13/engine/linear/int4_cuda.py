"""4-bit weights on a CUDA GPU: torch's int4 product ("tinygemm") reads them in a layout of its own.

It is made for few rows, which wait for memory; beyond those a bfloat16 product wins, for which our Triton kernel
dequantizes in one pass, or torch in many where Triton is missing. The layout is a fixed order of the codes within tiles
of 8 rows and 128 columns; which order, is found by packing a tile whose codes tell.
"""

from collections.abc import Iterator, Sequence
from functools import cache
from importlib import import_module
from typing import Any

import torch

from mp13.engine.linear.quantized_tensor import QuantizedTensor, chunk, row_pieces, scales_and_zeros, stacked_codes
from mp13.engine.linear.quantized_weight import QuantizedWeight
from mp13.engine.quantization import UNPACKED

_FEW_ROWS = 32
_INNER_K_TILES = 8
_TILE = (8, 16 * _INNER_K_TILES)  # rows and columns
ROW_MULTIPLE, COLUMN_MULTIPLE = _TILE


class Int4CUDAWeight(QuantizedWeight):
    """`tensors` are of 4 bits and axis 1 with bfloat16 scales; their rows together and columns fill whole tiles."""

    few_rows = _FEW_ROWS

    def __init__(self, tensors: Sequence[QuantizedTensor], bias: torch.Tensor | None) -> None:
        super().__init__(tensors, bias)
        self._group_size = tensors[0].group_size
        num_rows, width = self.shape
        size = (num_rows // _TILE[0], width // _TILE[1], 32, _INNER_K_TILES // 2)
        self._packed = torch.empty(size, dtype=torch.int32, device=self.device)
        for rows in row_pieces((num_rows, width), _TILE[0], chunk(self.device)):
            self._packed[rows.start // _TILE[0] : rows.stop // _TILE[0]] = _pack(stacked_codes(tensors, rows))
        self._scales_and_zeros = scales_and_zeros(tensors)

    @property
    def num_bytes(self) -> int:
        return self._packed.nbytes + self._scales_and_zeros.nbytes

    def few(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = torch.ops.aten._weight_int4pack_mm(
            x.to(torch.bfloat16), self._packed, self._group_size, self._scales_and_zeros
        )
        return y.to(x.dtype)

    def pieces(self, dtype: torch.dtype) -> Iterator[torch.Tensor]:
        for rows in row_pieces((self.shape[0], self.shape[1]), _TILE[0], UNPACKED):
            yield self._dense(rows, dtype) if _kernel() is None else self._dequantized(rows, dtype)

    def dense(self, dtype: torch.dtype) -> torch.Tensor:
        return self._dense(range(self.shape[0]), dtype)

    def _dense(self, rows: range, dtype: torch.dtype) -> torch.Tensor:
        """Some rows of W, from one whole tile to another."""
        packed = self._packed[rows.start // _TILE[0] : rows.stop // _TILE[0]]
        w = _unpack(packed).to(dtype).sub_(8).view(len(rows), -1, self._group_size)
        pairs = self._scales_and_zeros[:, rows.start : rows.stop]
        scale, zero = (t.to(dtype).t()[..., None] for t in pairs.unbind(-1))  # (rows, groups, 1)
        return torch.addcmul(zero, w, scale, out=w).view(len(rows), -1)

    def _dequantized(self, rows: range, dtype: torch.dtype) -> torch.Tensor:
        """As `_dense`, in one pass of our Triton kernel."""
        w = torch.empty(len(rows), self.shape[1], dtype=dtype, device=self.device)
        packed, order = self._packed[rows.start // _TILE[0] : rows.stop // _TILE[0]], _order(self.device)
        _kernel()[len(rows) // _TILE[0], self.shape[1] // _TILE[1]](
            packed, order, self._scales_and_zeros, w, self.shape[0], rows.start, self.shape[1],
            GROUP=self._group_size, TILE_ROWS=_TILE[0], TILE_COLUMNS=_TILE[1],
        )  # fmt: skip
        return w


@cache
def _kernel() -> Any:
    """None where there is no Triton."""
    try:
        return import_module("mp13.engine.linear.int4_kernels").dequantize_kernel
    except ImportError:
        return None


def why_not(device: torch.device) -> str | None:
    """The reason why no int4 product can run on this GPU, if there is one."""
    if torch.version.hip is not None or torch.cuda.get_device_capability(device) < (8, 0):
        return "torch's int4 product needs an NVIDIA GPU of compute capability 8.0 or more"
    return None if _order(device) is not None else "torch lays int4 weights out in an unknown way on this GPU"


def _pack(codes: torch.Tensor) -> torch.Tensor:
    """codes: uint8 (rows, columns) -> int32 (rows / 8, columns / 128, 32, 4)"""
    pairs = codes[:, ::2] << 4 | codes[:, 1::2]
    packed: torch.Tensor = torch.ops.aten._convert_weight_to_int4pack(pairs, _INNER_K_TILES)
    return packed


def _unpack(packed: torch.Tensor) -> torch.Tensor:
    """The codes, uint8 (rows, columns)."""
    order = _order(packed.device)
    assert order is not None
    tiles = _in_tiles(packed)[..., order].view(*packed.shape[:2], *_TILE)
    return tiles.transpose(1, 2).reshape(packed.shape[0] * _TILE[0], -1)


def _in_tiles(packed: torch.Tensor) -> torch.Tensor:
    """Every tile's codes in the order in which they lie there, uint8 (rows / 8, columns / 128, 1024)."""
    pairs = packed.view(torch.uint8)
    return torch.stack([pairs & 15, pairs >> 4], -1).view(*packed.shape[:2], -1)


@cache
def _order(device: torch.device) -> torch.Tensor | None:
    """Where in a packed tile each of its 1024 codes lies, int64 (1024,)."""
    number = torch.arange(_TILE[0] * _TILE[1], device=device).view(_TILE)
    try:
        digits = [_in_tiles(_pack((number >> shift & 15).to(torch.uint8))).view(-1).long() for shift in (0, 4, 8)]
    except (AttributeError, RuntimeError):
        return None
    found = digits[0] + (digits[1] << 4) + (digits[2] << 8)
    return found.argsort() if torch.equal(found.sort().values, number.view(-1)) else None
