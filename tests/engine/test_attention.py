"""Attention over the paged cache: a loop anybody can check by hand, the readable reference, and SDPA agree."""

import json
import math
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import mp13
from mp13.engine.attention import flash_attn, reference, sdpa
from mp13.engine.attention.flash_attn import reference_attention
from mp13.engine.attention.metadata import causal_mask
from mp13.engine.attention.reference import attend, flash_attn_varlen_func, flash_attn_with_kvcache, store_kvcache
from mp13.engine.attention.registry import AttentionSpec, PagedAttentionFunction
from mp13.engine.execution.batch_tensors import BatchTensors, batch_tensors
from mp13.engine.request import SamplingParams
from mp13.engine.scheduling.batch import Batch, ScheduledSequence
from mp13.engine.scheduling.sequence import Sequence
from tests.engine.attention_cases import HEAD_DIM, LENS, by_hand, packed, relative_error, run

RAGGED = [(1, 1), (1, 9), (7, 7), (3, 8), (1, 4), (5, 17)]
ALL_BACKENDS = pytest.mark.parametrize(
    "backend", [reference_attention, sdpa.paged_attention], ids=["reference", "sdpa"]
)


@ALL_BACKENDS
@pytest.mark.parametrize("window", [None, 1, 3, 8, 100])
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (4, 2), (6, 1)])
def test_decodes_and_prefills_of_one_step_equal_the_loop(
    backend: PagedAttentionFunction, window: int | None, heads: int, kv_heads: int
) -> None:
    step = packed(RAGGED, heads=heads, kv_heads=kv_heads)
    out = run(step, backend, AttentionSpec(scale=0.3, window=window))
    expected = torch.cat([by_hand(q, k, v, 0.3, window) for q, k, v in step.sequences])
    torch.testing.assert_close(out.double(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("lens", [[(1, 6)], [(1, 1)], [(6, 6)], [(4, 6)], [(1, 5), (1, 8)]])
@pytest.mark.parametrize("window", [None, 3])
def test_each_path_of_sdpa_alone_equals_the_loop(lens: list[tuple[int, int]], window: int | None) -> None:
    step = packed(lens)
    expected = torch.cat([by_hand(q, k, v, 0.25, window) for q, k, v in step.sequences])
    out = run(step, sdpa.paged_attention, AttentionSpec(scale=0.25, window=window))
    torch.testing.assert_close(out.double(), expected, atol=1e-5, rtol=1e-5)


def test_the_reference_caps_scores() -> None:
    step = packed(RAGGED)
    out = run(step, reference_attention, AttentionSpec(scale=2.0, softcap=1.5))
    expected = torch.cat([by_hand(q, k, v, 2.0, softcap=1.5) for q, k, v in step.sequences])
    torch.testing.assert_close(out.double(), expected, atol=1e-5, rtol=1e-5)


@settings(max_examples=60)
@given(
    lens=LENS,
    window=st.none() | st.integers(1, 40),
    heads=st.sampled_from([(1, 1), (4, 2), (6, 3), (9, 3), (8, 1)]),
    block_size=st.sampled_from([1, 2, 5, 8, 16, 256]),
    seed=st.integers(0, 1000),
)
def test_sdpa_equals_the_reference_over_any_layout(
    lens: list[tuple[int, int]], window: int | None, heads: tuple[int, int], block_size: int, seed: int
) -> None:
    step = packed(lens, heads=heads[0], kv_heads=heads[1], block_size=block_size, seed=seed)
    spec = AttentionSpec(scale=HEAD_DIM**-0.5, window=window)
    expected = run(step, reference_attention, spec)
    torch.testing.assert_close(run(step, sdpa.paged_attention, spec), expected, atol=1e-5, rtol=1e-5)
    assert relative_error(run(step.to(torch.bfloat16), sdpa.paged_attention, spec), expected) <= 2e-2


def decode(num_tokens: int, table: list[int]) -> BatchTensors:
    """The tensors of a step that computes the last token of one sequence whose blocks are `table`."""
    seq = Sequence("r", list(range(num_tokens)), SamplingParams())
    seq.block_table, seq.num_computed_tokens = table, num_tokens - 1
    return batch_tensors(Batch((ScheduledSequence(seq, 1),)), 4, torch.device("cpu"))


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("num_tokens", [1, 4, 9, 11])
def test_a_lone_decode_reads_a_run_of_blocks_as_it_reads_any_others(num_tokens: int, window: int | None) -> None:
    spec = AttentionSpec(scale=0.3, window=window)
    k_cache, v_cache = torch.randn(2, 9, 4, 2, HEAD_DIM)
    q = torch.randn(1, 4, HEAD_DIM)
    outs = []
    for table in ([5, 6, 7][: -(-num_tokens // 4)], [8, 0, 3][: -(-num_tokens // 4)]):
        meta = decode(num_tokens, table).attention
        assert (meta.first_of_run == 5) == (table[0] == 5) or len(table) == 1
        for cache in (k_cache, v_cache):  # the same content wherever the blocks lie
            cache[table] = cache[[5, 6, 7][: len(table)]].clone()
        outs.append(sdpa.paged_attention(q, k_cache, v_cache, spec, meta))
        torch.testing.assert_close(outs[-1], reference_attention(q, k_cache, v_cache, spec, meta))
    torch.testing.assert_close(outs[0], outs[1])


def test_the_tensors_of_a_step_say_where_its_tokens_go() -> None:
    one, two = (Sequence(str(i), list(range(100 * i, 100 * i + 9)), SamplingParams()) for i in range(2))
    one.block_table, one.num_computed_tokens = [5, 2, 7], 8
    two.block_table, two.num_computed_tokens = [1, 6], 3
    tensors = batch_tensors(Batch((ScheduledSequence(one, 1), ScheduledSequence(two, 4))), 4, torch.device("cpu"))
    assert tensors.input_ids.tolist() == [8, 103, 104, 105, 106]
    assert tensors.positions.tolist() == [8, 3, 4, 5, 6]
    assert tensors.rows.tolist() == [0]  # only the first reaches its end
    assert tensors.new_blocks == [7, 6]  # begun in this step; block 1 holds three tokens already
    assert tensors.attention.slot_mapping.tolist() == [28, 7, 24, 25, 26]
    assert tensors.attention.block_tables.tolist() == [[5, 2, 7], [1, 6, 1]]  # filled up with a block of its own
    assert (tensors.attention.query_lens, tensors.attention.context_lens) == ([1, 4], [9, 7])
    assert tensors.attention.first_of_run is None


@ALL_BACKENDS
def test_what_other_sequences_hold_in_their_blocks_changes_nothing(backend: PagedAttentionFunction) -> None:
    """A sequence that went wrong may leave NaN in its blocks; nobody else may read them, padding included."""
    lens = [(1, 9), (1, 2), (3, 6), (1, 5)]
    spec = AttentionSpec(scale=0.3)
    clean = run(packed(lens), backend, spec)
    step = packed(lens)
    own = {
        int(b) for row, n in zip(step.meta.block_tables, step.meta.context_lens, strict=True) for b in row[: -(-n // 4)]
    }
    for block in set(range(len(step.k_cache))) - own:
        step.k_cache[block] = step.v_cache[block] = math.nan
    torch.testing.assert_close(run(step, backend, spec), clean, atol=0, rtol=0)


def test_the_masks_of_a_step_are_made_once_for_all_layers() -> None:
    meta = packed([(1, 3), (3, 5)]).meta
    assert meta.mask(1, 2) is meta.mask(1, 2) and meta.decode_mask(None) is meta.decode_mask(None)
    assert meta.mask(1, 2).tolist() == causal_mask(3, 5, 2, torch.device("cpu")).tolist()


def test_a_causal_mask_is_aligned_at_the_lower_right() -> None:
    assert causal_mask(2, 4, None, torch.device("cpu")).int().tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]
    assert causal_mask(2, 4, 2, torch.device("cpu")).int().tolist() == [[0, 1, 1, 0], [0, 0, 1, 1]]


def test_keys_and_values_land_in_their_slots_and_nowhere_else() -> None:
    k_cache, v_cache = torch.zeros(3, 4, 2, 8), torch.zeros(3, 4, 2, 8)
    k, v = torch.randn(3, 2, 8), torch.randn(3, 2, 8)
    store_kvcache(k, v, k_cache, v_cache, torch.tensor([9, 0, 6]))
    for token, (block, offset) in enumerate([(2, 1), (0, 0), (1, 2)]):
        assert torch.equal(k_cache[block, offset], k[token]) and torch.equal(v_cache[block, offset], v[token])
    assert (k_cache.abs().sum((-1, -2)) > 0).sum() == (v_cache.abs().sum((-1, -2)) > 0).sum() == 3


def test_a_cache_that_cannot_be_written_in_place_is_refused_not_missed() -> None:
    cache = torch.zeros(4, 3, 2, 8).transpose(0, 1)
    with pytest.raises(RuntimeError):
        store_kvcache(torch.ones(1, 2, 8), torch.ones(1, 2, 8), cache, cache, torch.tensor([0]))


def test_packed_keys_and_paged_keys_give_the_same() -> None:
    step = packed(RAGGED)
    store_kvcache(step.k, step.v, step.k_cache, step.v_cache, step.meta.slot_mapping)
    starts_q = torch.tensor([0, *step.meta.query_lens]).cumsum(0).int()
    starts_k = torch.tensor([0, *step.meta.context_lens]).cumsum(0).int()
    common = (starts_q, starts_k, max(step.meta.query_lens), max(step.meta.context_lens))
    plain = flash_attn_varlen_func(
        step.q, *(torch.cat([s[i] for s in step.sequences]) for i in (1, 2)), *common, causal=True
    )
    table = step.meta.block_tables.int()
    paged = flash_attn_varlen_func(step.q, step.k_cache, step.v_cache, *common, causal=True, block_table=table)
    assert torch.equal(plain, paged)
    expected = torch.cat([by_hand(q, k, v, HEAD_DIM**-0.5) for q, k, v in step.sequences])
    torch.testing.assert_close(plain.double(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("window", "softcap"), [(None, 0.0), (3, 0.0), (None, 1.5)])
def test_new_keys_are_put_into_the_cache_and_attended_to_at_once(window: int | None, softcap: float) -> None:
    """As in flash-attn: one call appends in place and attends, over a plain cache and over a paged one."""
    lens, new = torch.tensor([5, 2]), 3
    q, k, v = torch.randn(2, new, 4, HEAD_DIM), torch.randn(2, new, 2, HEAD_DIM), torch.randn(2, new, 2, HEAD_DIM)
    past_k, past_v = torch.randn(2, 12, 2, HEAD_DIM), torch.randn(2, 12, 2, HEAD_DIM)
    options = {"softmax_scale": 0.3, "causal": True, "softcap": softcap}
    options["window_size"] = (-1, -1) if window is None else (window - 1, 0)
    expected = []
    for i, n in enumerate(lens.tolist()):
        keys, values = torch.cat([past_k[i, :n], k[i]]), torch.cat([past_v[i, :n], v[i]])
        expected.append(by_hand(q[i], keys, values, 0.3, window, softcap))

    plain_k, plain_v = past_k.clone(), past_v.clone()
    plain = flash_attn_with_kvcache(q, plain_k, plain_v, k, v, cache_seqlens=lens, **options)
    torch.testing.assert_close(plain.double(), torch.stack(expected), atol=1e-5, rtol=1e-5)
    assert torch.equal(plain_k[0, 5:8], k[0]) and torch.equal(plain_v[1, 2:5], v[1])
    assert torch.equal(plain_k[0, 8:], past_k[0, 8:])

    table = torch.tensor([[4, 1, 0], [2, 5, 3]], dtype=torch.int32)
    paged_k, paged_v = torch.zeros(6, 4, 2, HEAD_DIM), torch.zeros(6, 4, 2, HEAD_DIM)
    for i in range(2):
        paged_k[table[i].long()], paged_v[table[i].long()] = past_k[i].view(3, 4, 2, -1), past_v[i].view(3, 4, 2, -1)
    paged = flash_attn_with_kvcache(q, paged_k, paged_v, k, v, cache_seqlens=lens, block_table=table, **options)
    assert torch.equal(paged, plain)
    assert torch.equal(paged_k[table[0].long()].flatten(0, 1), plain_k[0])


def test_without_a_length_the_whole_cache_is_seen() -> None:
    q, k, v = torch.randn(1, 1, 2, HEAD_DIM), torch.randn(1, 6, 2, HEAD_DIM), torch.randn(1, 6, 2, HEAD_DIM)
    assert torch.equal(flash_attn_with_kvcache(q, k, v), flash_attn_with_kvcache(q, k, v, cache_seqlens=6))
    assert not torch.equal(flash_attn_with_kvcache(q, k, v), flash_attn_with_kvcache(q, k, v, cache_seqlens=5))


def test_without_causal_a_query_sees_both_sides_of_its_window() -> None:
    q, k, v = torch.randn(5, 1, 8), torch.randn(5, 1, 8), torch.eye(5)[:, None]
    seen = attend(q, k, v, window_size=(1, 2))[:, 0] > 0
    assert seen.int().tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [0, 1, 1, 1, 1], [0, 0, 1, 1, 1], [0, 0, 0, 1, 1]]
    assert (attend(q, k, v)[:, 0] > 0).all()


def test_a_query_that_sees_no_key_gives_zero_as_in_flash_attention() -> None:
    out = attend(torch.randn(3, 2, 8), torch.randn(1, 2, 8), torch.randn(1, 2, 8), causal=True)
    assert torch.equal(out[:2], torch.zeros(2, 2, 8)) and out[2].abs().sum() > 0


def test_the_reference_computes_in_float32_whatever_it_is_given() -> None:
    q, k, v = (torch.randn(6, 2, HEAD_DIM).bfloat16() for _ in range(3))
    out = attend(q, k, v, causal=True)
    assert out.dtype == torch.bfloat16
    exact = by_hand(q, k, v, HEAD_DIM**-0.5)
    assert torch.equal(out, exact.float().bfloat16())


def test_the_readable_attention_can_be_imported_without_the_engine() -> None:
    script = (
        "import json, sys, mp13.engine.attention.reference\n"
        "print(json.dumps(sorted(m for m in sys.modules if m.startswith('mp13'))))"
    )
    folder = Path(mp13.__file__).parents[1]
    result = subprocess.run([sys.executable, "-c", script], cwd=folder, capture_output=True, text=True, timeout=120)
    packages = ["mp13", "mp13.engine", "mp13.engine.attention", "mp13.engine.attention.reference"]
    assert json.loads(result.stdout) == packages, result.stderr
    assert Path(reference.__file__).read_text().count("import ") == 2  # math and torch


def as_flash_attention_3(q: torch.Tensor, k_cache: torch.Tensor, v_cache: torch.Tensor, **given: Any) -> torch.Tensor:
    """With the parameters of version 3 that say where things are."""
    return paged_reference(q, k_cache, v_cache, given.pop("cache_seqlens"), **given)


def as_flash_attention_4(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **given: Any
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Likewise of version 4, where no window is (None, None)."""
    left, right = given.pop("window_size")
    window = (-1 if left is None else left, -1 if right is None else right)
    del given["max_seqlen_k"]
    return paged_reference(q, k, v, given.pop("seqused_k"), window_size=window, **given), None


def paged_reference(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    lens: torch.Tensor,
    *,
    page_table: torch.Tensor,
    cu_seqlens_q: torch.Tensor,
    max_seqlen_q: int,
    **rest: Any,
) -> torch.Tensor:
    starts = torch.cat([lens.new_zeros(1), lens]).cumsum(0)
    table = {"block_table": page_table, "max_seqlen_k": int(lens.max())}
    return flash_attn_varlen_func(q, k_cache, v_cache, cu_seqlens_q, starts, max_seqlen_q, **table, **rest)


@pytest.mark.parametrize(
    ("function", "module", "library"),
    [
        (flash_attn.flash_attention_2, "flash_attn.flash_attn_interface", reference),
        (
            flash_attn.flash_attention_3,
            "flash_attn_interface",
            SimpleNamespace(flash_attn_with_kvcache=as_flash_attention_3),
        ),
        (flash_attn.flash_attention_4, "flash_attn.cute", SimpleNamespace(flash_attn_varlen_func=as_flash_attention_4)),
    ],
    ids=["2", "3", "4"],
)
@pytest.mark.parametrize("window", [None, 3])
def test_each_version_of_flash_attention_is_called_with_what_the_reference_is(
    function: PagedAttentionFunction, module: str, library: Any, window: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module.partition(".")[0], ModuleType("parent"))
    monkeypatch.setitem(sys.modules, module, library)
    spec = AttentionSpec(0.3, window, softcap=1.5)
    expected = run(packed(RAGGED), reference_attention, spec)
    torch.testing.assert_close(run(packed(RAGGED), function, spec), expected)
