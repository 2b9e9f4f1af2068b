"""A matrix quantized by HQQ: its codes in hqq's own packing, a scale and a zero point for each group.

The hqq library finds the codes and packs them; how they are multiplied with is quantized_weight's.
"""

import math
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch

from mp13.engine.linear.hqq_import import import_hqq
from mp13.errors import UnsupportedError

_PACKING = {8: "8bit_u8", 4: "4bit_u8", 3: "3bit_32", 2: "2bit_u8"}  # hqq's names
_CODES_PER_ITEM = {8: 1, 4: 2, 3: 10, 2: 4}
# Weights quantized or repacked at once: hqq holds about eight float32 copies of them. On a CPU so few that torch keeps
# each step to one thread, which makes the sums the same on every number of threads; there are pieces for all of them.
_CHUNK, _CUDA_CHUNK = 1 << 15, 1 << 22


@dataclass(frozen=True)
class QuantizedTensor:
    """W[n, k] = (code[n, k] - 2 ** (bits - 1)) * scale + zero, each group of weights with its own scale and zero.

    With axis 1 a group is `group_size` neighbours in a row. With axis 0 the matrix, row after row, is cut into
    `group_size` equal runs, and a group has one weight of each.
    """

    packed: torch.Tensor  # hqq lays the groups side by side and packs whole runs of their codes over each other
    scale: torch.Tensor  # (out_features, in_features / group_size)
    zero: torch.Tensor  # likewise
    bits: int
    group_size: int
    axis: int

    @property
    def shape(self) -> torch.Size:
        return torch.Size((self.scale.shape[0], self.scale.shape[1] * self.group_size))

    @property
    def num_bytes(self) -> int:
        return self.packed.nbytes + self.scale.nbytes + self.zero.nbytes

    def fits(self, shape: tuple[int, int]) -> bool:
        """Whether its parts are those of a matrix of this shape."""
        grouped = _grouped(shape[0] * shape[1], self.group_size, self.axis)
        groups = (shape[0], shape[1] // self.group_size)
        packed = (_num_packed(grouped[0], self.bits), grouped[1])
        return (self.packed.shape, self.scale.shape, self.zero.shape) == (packed, groups, groups) and (
            self.packed.dtype == _packed_dtype(self.bits) and self.scale.dtype == self.zero.dtype
        )

    def dense(self, dtype: torch.dtype) -> torch.Tensor:
        """W, computed in float32 and rounded once to `dtype`."""
        codes = _hqq().unpack[_PACKING[self.bits]](self.packed, dtype=dtype)
        num_groups = self.scale.numel()
        w = codes[: num_groups if self.axis == 1 else self.group_size]  # hqq fills 3 bits up to tens
        by_group = (-1, 1) if self.axis == 1 else (1, -1)
        scale, zero = self.scale.to(dtype).view(by_group), self.zero.to(dtype).view(by_group)
        w.sub_(1 << self.bits - 1)
        return torch.addcmul(zero, w, scale, out=w).view(self.shape)

    def between(self, rows: range, dtype: torch.dtype) -> torch.Tensor:
        """Neighbouring rows of W, (len(rows), in_features), as `dense` has them. Only for axis 1."""
        per_row, step = self.scale.shape[1], self.packed.shape[0]
        first, last = rows.start * per_row, rows.stop * per_row  # groups
        w = torch.empty(last - first, self.group_size, dtype=dtype, device=self.packed.device)
        for run in range(first // step, -(-last // step)):
            start, stop = max(first, run * step), min(last, (run + 1) * step)
            codes = self.packed[start - run * step : stop - run * step]
            if self.bits < 8:
                shift = self.bits * (_CODES_PER_ITEM[self.bits] - 1 - run)
                codes = (codes >> shift).bitwise_and_((1 << self.bits) - 1)
            w[start - first : stop - first] = codes
        scale, zero = (t[rows.start : rows.stop].to(dtype).view(-1, 1) for t in (self.scale, self.zero))
        w.sub_(1 << self.bits - 1)
        return torch.addcmul(zero, w, scale, out=w).view(len(rows), -1)

    def codes(self, rows: torch.Tensor) -> torch.Tensor:
        """The codes of some rows, uint8 (len(rows), in_features). Only for axis 1, where rows have groups of their own.

        rows: (R,) int64
        """
        per_row = self.scale.shape[1]
        groups = rows[:, None] * per_row + torch.arange(per_row, device=rows.device)  # (R, groups of a row)
        run, place = groups // self.packed.shape[0], groups % self.packed.shape[0]
        shift = self.bits * (_CODES_PER_ITEM[self.bits] - 1 - run)
        codes = (self.packed[place] >> shift[..., None].to(self.packed.dtype)) & ((1 << self.bits) - 1)
        return codes.to(torch.uint8).view(len(rows), -1)

    def rows(self, rows: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Some rows of W, (len(rows), in_features). Only for axis 1. rows: (R,) int64"""
        w = self.codes(rows).view(len(rows), -1, self.group_size).to(dtype).sub_(1 << self.bits - 1)
        scale, zero = self.scale[rows, :, None].to(dtype), self.zero[rows, :, None].to(dtype)
        return torch.addcmul(zero, w, scale, out=w).view(len(rows), -1)


@torch.no_grad()
def quantize(
    weight: torch.Tensor, bits: int, group_size: int, axis: int, dtype: torch.dtype, device: torch.device
) -> QuantizedTensor:
    """Quantize a matrix by HQQ (Badri & Shaji 2023) on `device`, a piece at a time, so that beside it and the result
    only a piece is in memory.

    weight: (out_features, in_features), anywhere; in_features is a multiple of `group_size`.
    dtype: of scales and zeros.
    """
    grouped = weight.reshape(_grouped(weight.numel(), group_size, axis))
    num_groups, runs = weight.numel() // group_size, _CODES_PER_ITEM[bits]
    step = _num_packed(grouped.shape[0], bits)
    # Pieces go along the groups. With axis 1 those that hqq packs over each other are `step` apart.
    num_columns = step if axis == 1 else num_groups
    together = runs if axis == 1 else 1
    packed = torch.empty(step, grouped.shape[1], dtype=_packed_dtype(bits), device=device)
    scale, zero = torch.empty(2, together, num_columns, dtype=dtype, device=device)
    width = max(1, chunk(device) // (group_size * together))

    def quantize_piece(start: int) -> None:
        piece = slice(start, min(start + width, num_columns))
        if axis == 1:
            rows = torch.arange(runs)[:, None] * step + torch.arange(piece.start, piece.stop)
            part = grouped[rows.view(-1).clamp(max=num_groups - 1).to(grouped.device)]  # the last run may be short
        else:
            part = grouped[:, piece]
        codes, found = _hqq().quantize(part.to(device), bits, group_size=group_size, axis=axis, device=str(device))
        packed[(piece,) if axis == 1 else (slice(None), piece)] = codes
        scale[:, piece] = found["scale"].view(together, -1)
        zero[:, piece] = (((1 << bits - 1) - found["zero"]) * found["scale"]).view(together, -1)

    with ThreadPoolExecutor(torch.get_num_threads() if device.type == "cpu" else 1) as pool:
        deque(pool.map(quantize_piece, range(0, num_columns, width)), maxlen=0)
    shape = (weight.shape[0], -1)
    scale, zero = (t.view(-1)[:num_groups].reshape(shape) for t in (scale, zero))
    return QuantizedTensor(packed, scale, zero, bits, group_size, axis)


def stacked_codes(tensors: Sequence[QuantizedTensor], rows: range) -> torch.Tensor:
    """Codes of some rows of the tensors one under the other, uint8 (len(rows), in_features)."""
    found, first = [], 0
    for tensor in tensors:
        num_rows = tensor.shape[0]
        start, stop = max(rows.start - first, 0), min(rows.stop - first, num_rows)
        if start < stop:
            found.append(tensor.codes(torch.arange(start, stop, device=tensor.scale.device)))
        first += num_rows
    return torch.cat(found)


def scales_and_zeros(tensors: Sequence[QuantizedTensor]) -> torch.Tensor:
    """As torch's int4 products want them: (groups of a row, rows, 2)."""
    pairs = [torch.stack([tensor.scale, tensor.zero], -1) for tensor in tensors]
    return torch.cat(pairs).transpose(0, 1).contiguous()


def row_pieces(shape: tuple[int, int], multiple: int, numbers: int) -> Iterator[range]:
    """The rows of a matrix in pieces of about so many numbers, each but the last of a multiple of rows."""
    step = max(1, numbers // (shape[1] * multiple)) * multiple
    for start in range(0, shape[0], step):
        yield range(start, min(start + step, shape[0]))


def chunk(device: torch.device) -> int:
    """How many numbers may lie about unpacked."""
    return _CHUNK if device.type == "cpu" else _CUDA_CHUNK


def _grouped(numbers: int, group_size: int, axis: int) -> tuple[int, int]:
    """The shape in which a matrix of so many numbers is packed."""
    return (numbers // group_size, group_size) if axis == 1 else (group_size, numbers // group_size)


def _num_packed(num_rows: int, bits: int) -> int:
    return math.ceil(num_rows / _CODES_PER_ITEM[bits])


def _packed_dtype(bits: int) -> torch.dtype:
    return torch.int32 if bits == 3 else torch.uint8


def require_hqq() -> None:
    """Raises UnsupportedError, which says how to install it, where the hqq library is missing."""
    _hqq()


def _hqq() -> Any:
    try:
        return import_hqq().Quantizer
    except ImportError as error:
        raise UnsupportedError(
            f"quantization needs the package hqq, which cannot be imported ({error}); pip install 'mp13[hqq]'"
        ) from None
