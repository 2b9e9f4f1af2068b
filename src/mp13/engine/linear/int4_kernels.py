"""Dequantizes torch's packed int4 weights in one pass, in Triton. What is packed in which order is int4_cuda's."""

import triton
import triton.language as tl


@triton.jit
def dequantize_kernel(
    packed_ptr, order_ptr, pairs_ptr, out_ptr, num_rows, first_row, width,
    GROUP: tl.constexpr, TILE_ROWS: tl.constexpr, TILE_COLUMNS: tl.constexpr,
):  # fmt: skip
    """One tile. `pairs` (groups of a row, num_rows, 2) are scales and zeros of all rows; `packed` and `out` begin at
    `first_row`. `order` says where in a packed tile the code of each place lies."""
    place = tl.arange(0, TILE_ROWS * TILE_COLUMNS)
    row, column = place // TILE_COLUMNS, tl.program_id(1) * TILE_COLUMNS + place % TILE_COLUMNS
    tile = tl.program_id(0).to(tl.int64) * (width // TILE_COLUMNS) + tl.program_id(1)
    at = tl.load(order_ptr + place)
    words = tl.load(packed_ptr + tile * (TILE_ROWS * TILE_COLUMNS // 8) + at // 8)
    codes = (words >> (at % 8 * 4)) & 15
    row += tl.program_id(0) * TILE_ROWS
    pair = (column // GROUP * num_rows + first_row + row) * 2
    scale, zero = tl.load(pairs_ptr + pair).to(tl.float32), tl.load(pairs_ptr + pair + 1).to(tl.float32)
    w = (codes - 8).to(tl.float32) * scale + zero
    tl.store(out_ptr + row.to(tl.int64) * width + column, w.to(out_ptr.dtype.element_ty))
