"""The kernel that dequantizes int4 weights, in Triton's interpreter and over a packing order made up here; on a GPU,
where the order is torch's, tests/gpu has it."""

import os
from importlib import import_module

import pytest
import torch

pytest.importorskip("triton", minversion="3.5", reason="there is no Triton here whose interpreter works")
if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("Triton compiles for the GPU here", allow_module_level=True)


@pytest.mark.parametrize("group_size", [32, 64, 256])
def test_each_code_gets_its_groups_scale_and_zero_wherever_it_lies(group_size: int) -> None:
    kernel = import_module("mp13.engine.linear.int4_kernels").dequantize_kernel
    generator = torch.Generator().manual_seed(0)
    num_rows, width, first = 24, 512, 8  # the last 16 rows are dequantized
    codes = torch.randint(16, (num_rows, width), generator=generator)
    pairs = torch.randn(width // group_size, num_rows, 2, generator=generator)
    order = torch.randperm(1024, generator=generator)
    tiles = codes[first:].view(2, 8, width // 128, 128).transpose(1, 2).reshape(2, width // 128, 1024)
    lying = torch.empty_like(tiles)
    lying[..., order] = tiles
    nibbles = lying.view(2, width // 128, 128, 8)
    words = (nibbles << torch.arange(0, 32, 4)).sum(-1)  # unsigned 32 bits, in int64
    packed = torch.where(words >= 2**31, words - 2**32, words).int()
    out = torch.empty(16, width)
    kernel[2, width // 128](
        packed, order, pairs, out, num_rows, first, width, GROUP=group_size, TILE_ROWS=8, TILE_COLUMNS=128
    )
    scale, zero = (t.t().repeat_interleave(group_size, 1)[first:] for t in pairs.unbind(-1))
    torch.testing.assert_close(out, (codes[first:] - 8) * scale + zero)
