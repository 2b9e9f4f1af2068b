"""The Triton kernels against the readable attention: here in Triton's interpreter, on a GPU in tests/gpu."""

import os
from importlib import import_module
from typing import Any

import pytest
import torch

from mp13.engine.attention.flash_attn import reference_attention
from mp13.engine.attention.registry import AttentionSpec
from tests.engine.attention_cases import packed, run

triton = pytest.importorskip("triton", minversion="3.7", reason="its interpreter needs Triton 3.7 beside NumPy 2.4")
if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("Triton compiles for the GPU here, where tests/gpu has it", allow_module_level=True)

backend: Any = import_module("mp13.engine.attention.triton")

RAGGED = [(1, 1), (1, 100), (3, 80), (1, 64), (40, 70)]


def check(spec: AttentionSpec, **layout: int) -> None:
    """NaN wherever no token is: what is not read cannot be seen."""
    expected = run(packed(RAGGED, **layout), reference_attention, spec)
    step = packed(RAGGED, **layout)
    for cache in (step.k_cache, step.v_cache):
        cache[cache == 50] = float("nan")
    torch.testing.assert_close(run(step, backend.paged_attention, spec), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("window", [None, 1, 50])
@pytest.mark.parametrize("softcap", [0.0, 2.0])
def test_decodes_and_prefills_equal_the_reference(window: int | None, softcap: float) -> None:
    check(AttentionSpec(0.3, window, softcap), heads=3, kv_heads=1, head_dim=64, block_size=16)


@pytest.mark.parametrize("num_splits", [2, 5])
@pytest.mark.parametrize("window", [None, 50])
def test_what_several_programs_found_in_their_parts_of_the_keys_is_joined(
    num_splits: int, window: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "_num_splits", lambda *_: num_splits)
    check(AttentionSpec(0.3, window), heads=3, kv_heads=1, head_dim=64, block_size=16, seed=1)


@pytest.mark.parametrize(("heads", "kv_heads", "head_dim"), [(2, 2, 80), (8, 1, 32), (3, 1, 256)])
@pytest.mark.parametrize("block_size", [8, 256])
def test_heads_and_blocks_may_have_any_size(heads: int, kv_heads: int, head_dim: int, block_size: int) -> None:
    check(AttentionSpec(head_dim**-0.5), heads=heads, kv_heads=kv_heads, head_dim=head_dim, block_size=block_size)
