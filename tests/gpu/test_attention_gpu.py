"""Every attention backend that runs on this GPU against the readable one in float32."""

import pytest
import torch

from mp13.engine.attention.flash_attn import reference_attention
from mp13.engine.attention.metadata import AttentionMetadata
from mp13.engine.attention.registry import AttentionNeed, AttentionSpec, choose_attention, why_not
from mp13.engine.config import ATTENTION_NAMES
from tests.engine.attention_cases import Packed, packed, relative_error, run

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")]
DEVICE = torch.device("cuda")
RAGGED = [(1, 1), (1, 700), (1, 5000), (1, 64), (130, 130), (70, 1200), (3, 4000), (513, 513), (1, 255)]
BACKENDS = [name for name in ATTENTION_NAMES if name not in ("auto", "reference")]


LAYOUTS = [  # block size, heads, KV heads, head size, window, softcap
    (16, 24, 8, 128, None, 0.0), (16, 24, 8, 128, 100, 0.0), (16, 24, 8, 128, None, 5.0), (64, 8, 8, 64, 33, 2.0),
    (8, 8, 1, 256, None, 0.0), (256, 8, 1, 256, 100, 2.0), (32, 9, 3, 96, 100, 0.0), (128, 16, 2, 128, None, 0.0),
    (128, 4, 4, 64, 700, 0.0), (256, 24, 8, 128, None, 0.0), (256, 9, 3, 64, 33, 0.0), (256, 8, 2, 128, None, 5.0),
]  # fmt: skip


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_a_ragged_batch_equals_the_reference(
    name: str, dtype: torch.dtype, layout: tuple[int, int, int, int, int | None, float]
) -> None:
    block_size, heads, kv_heads, head_dim, window, softcap = layout
    need = AttentionNeed(DEVICE, dtype, head_dim, block_size, softcap=softcap > 0)
    if (reason := why_not(name, need)) is not None:
        pytest.skip(reason)
    spec = AttentionSpec(head_dim**-0.5, window, softcap)
    step = packed(RAGGED, heads=heads, kv_heads=kv_heads, head_dim=head_dim, block_size=block_size, device="cuda")
    expected = run(step, reference_attention, spec)
    half = step.to(dtype)
    for cache in (half.k_cache, half.v_cache):  # what other sequences hold may be anything; behind its end a block is 0
        for block_table, length in zip(step.meta.block_tables, step.meta.context_lens, strict=True):
            cache[block_table[(length - 1) // block_size], (length - 1) % block_size + 1 :] = 0
    error = relative_error(run(half, choose_attention(name, need).function, spec), expected)
    assert error <= (1e-5 if dtype == torch.float32 else 2e-2)


@pytest.mark.parametrize("window", [None, 200])
def test_a_cuda_graph_of_the_triton_kernels_serves_other_lengths_and_blocks(window: int | None) -> None:
    """Captured at the longest context; replayed after the tensors on the device have changed."""
    if reason := why_not("triton", AttentionNeed(DEVICE, torch.bfloat16, 128, 16)):
        pytest.skip(reason)
    attend = choose_attention("triton", AttentionNeed(DEVICE, torch.bfloat16, 128, 16)).function
    spec = AttentionSpec(128**-0.5, window)
    longest = _step([4000, 4000, 4000])
    out = attend(longest.q, longest.k_cache, longest.v_cache, spec, longest.meta)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = attend(longest.q, longest.k_cache, longest.v_cache, spec, longest.meta)
    for lengths in ([4000, 4000, 4000], [1, 17, 3999], [300, 2048, 64]):
        other = _step(lengths, seed=2)
        longest.q.copy_(other.q)
        longest.meta.seqused_k.copy_(other.meta.seqused_k)
        width = other.meta.block_tables.shape[1]
        longest.k_cache[: len(other.k_cache)], longest.v_cache[: len(other.v_cache)] = other.k_cache, other.v_cache
        longest.meta.block_tables[:, :width] = other.meta.block_tables
        graph.replay()
        expected = run(other.to(torch.float32), reference_attention, spec)
        assert relative_error(out, expected) <= 2e-2


def _step(lengths: list[int], seed: int = 0) -> Packed:
    shape = {"heads": 24, "kv_heads": 8, "head_dim": 128, "block_size": 16}
    step = packed([(1, n) for n in lengths], seed=seed, device="cuda", **shape).to(torch.bfloat16)
    run(step, reference_attention, AttentionSpec(1.0))  # puts the new keys into the cache
    assert isinstance(step.meta, AttentionMetadata)
    return step
