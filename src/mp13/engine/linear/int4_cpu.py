"""4-bit weights on a CPU: torch's int4 product reads them in a layout of its own, made here and undone here.

Measured on one core with AVX-512 and bfloat16 instructions, SmolLM2's layers, groups of 64: for one row it takes 0.7 to
0.9 of the time of a bfloat16 product whose weights lie in the cache already (from memory, a quarter of the bytes counts
for more), from 16 rows on 1.25 of it. Dequantizing costs as much as that loses in 380 to 430 rows. In float32 torch's
kernel is not vectorized: one row takes longer than dequantizing, so there it runs only on demand.
"""

from collections.abc import Iterator, Sequence
from functools import cache

import torch

from mp13.engine.linear.quantized_tensor import QuantizedTensor, chunk, row_pieces, scales_and_zeros, stacked_codes
from mp13.engine.linear.quantized_weight import QuantizedWeight
from mp13.engine.quantization import UNPACKED

_FEW_ROWS, _FEW_ROWS_FLOAT32 = 384, 1
_LARGEST_BLOCK = 64  # rows; see _unpack
GROUP_SIZES = (32, 64, 128, 256)
ROW_MULTIPLE = 16


class Int4CPUWeight(QuantizedWeight):
    """`tensors` are of 4 bits and axis 1, their rows together a multiple of ROW_MULTIPLE."""

    def __init__(self, tensors: Sequence[QuantizedTensor], bias: torch.Tensor | None) -> None:
        super().__init__(tensors, bias)
        self._dtype, self._group_size = self.adapter_dtype, tensors[0].group_size
        self.few_rows = few_rows(self._dtype)
        num_rows, width = self.shape
        self._packed = torch.empty(num_rows, width // 2, dtype=torch.uint8)
        for rows in row_pieces((num_rows, width), _LARGEST_BLOCK, chunk(self.device)):
            self._packed[rows.start : rows.stop] = _pack(stacked_codes(tensors, rows))
        self._scales_and_zeros = scales_and_zeros(tensors)

    @property
    def num_bytes(self) -> int:
        return self._packed.nbytes + self._scales_and_zeros.nbytes

    def few(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(
            x.to(self._dtype), self._packed, self._group_size, self._scales_and_zeros
        )
        return y.to(x.dtype)

    def pieces(self, dtype: torch.dtype) -> Iterator[torch.Tensor]:
        for rows in row_pieces((self.shape[0], self.shape[1]), _LARGEST_BLOCK, UNPACKED):
            w = _unpack(self._packed[rows.start : rows.stop], dtype).sub_(8).view(-1, self._group_size, len(rows))
            pairs = self._scales_and_zeros[:, rows.start : rows.stop]
            scale, zero = pairs.to(dtype).unbind(-1)  # (groups of a row, rows)
            yield torch.addcmul(zero[:, None], w, scale[:, None], out=w).view(-1, len(rows)).t()
            del w


def few_rows(dtype: torch.dtype) -> int:
    return _FEW_ROWS_FLOAT32 if dtype == torch.float32 else _FEW_ROWS


def why_not() -> str | None:
    """The reason why no int4 product can run on this CPU, if there is one."""
    return None if _block_rows() else "torch lays int4 weights out in an unknown way on this CPU"


def _pack(codes: torch.Tensor) -> torch.Tensor:
    packed: torch.Tensor = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes.int(), 1)
    return packed


def _unpack(packed: torch.Tensor, dtype: torch.dtype, block: int | None = None) -> torch.Tensor:
    """The codes, transposed: (in_features, rows).

    Whole blocks of rows lie one after the other, column by column; a byte has a row of the block's lower half and its
    counterpart of the upper half. In what is left at the end, a byte has two neighbouring rows.
    """
    block = block or _block_rows()
    assert block is not None
    num_rows, width = packed.shape[0], 2 * packed.shape[1]
    codes = torch.empty(width, num_rows, dtype=dtype)
    whole = num_rows - num_rows % block
    source = packed[:whole].view(-1, width, block // 2)
    target = codes[:, :whole].view(width, -1, block).transpose(0, 1)  # (blocks, in_features, block)
    target[..., : block // 2] = source & 15
    target[..., block // 2 :] = source >> 4
    if whole < num_rows:
        rest = packed[whole:].view(width, -1)
        codes[:, whole::2] = rest & 15
        codes[:, whole + 1 :: 2] = rest >> 4
    return codes


@cache
def _block_rows() -> int | None:
    """Rows in a block, which depends on the CPU: found by trying."""
    codes = (torch.arange(144 * 32) * 7 % 16).view(144, 32).to(torch.uint8)
    codes ^= codes.T.flatten().view(144, 32)  # so that no other order looks the same
    try:
        packed = _pack(codes)
    except (AttributeError, RuntimeError):
        return None
    return next(
        (block for block in (_LARGEST_BLOCK, 32) if torch.equal(_unpack(packed, torch.uint8, block), codes.t())), None
    )
