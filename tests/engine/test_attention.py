"""Attention over the paged cache: a loop anybody can check by hand, the readable reference, and SDPA agree."""

import json
import math
import random
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import mp13
from mp13.engine.attention import reference, reference_backend, sdpa
from mp13.engine.attention.metadata import AttentionMetadata, causal_mask
from mp13.engine.attention.reference import attend, flash_attn_varlen_func, store_kvcache
from mp13.engine.attention.registry import AttentionSpec, choose_attention
from mp13.engine.execution.batch_tensors import BatchTensors, batch_tensors
from mp13.engine.request import SamplingParams
from mp13.engine.scheduling.batch import Batch, ScheduledSequence
from mp13.engine.scheduling.sequence import Sequence
from mp13.errors import UnsupportedError

HEAD_DIM = 16


def by_hand(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, window: int | None = None, softcap: float = 0.0
) -> torch.Tensor:
    """Causal attention of one sequence, number by number in float64. q: (m, heads, d); k, v: (n, KV heads, d)."""
    (m, num_heads, _), (n, num_kv_heads, _) = q.shape, k.shape
    out = torch.zeros(q.shape, dtype=torch.float64)
    for i in range(m):
        place = n - m + i
        seen = [j for j in range(n) if j <= place and (window is None or place - j < window)]
        for h in range(num_heads):
            kv = h * num_kv_heads // num_heads
            scores = [float(q[i, h].double() @ k[j, kv].double()) * scale for j in seen]
            if softcap:
                scores = [softcap * math.tanh(score / softcap) for score in scores]
            weights = [math.exp(score - max(scores)) for score in scores]
            out[i, h] = sum(w * v[j, kv].double() for w, j in zip(weights, seen, strict=True)) / sum(weights)
    return out


@dataclass
class Packed:
    """A step over a paged cache whose blocks lie in random order, with garbage wherever no sequence's token is."""

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    k_cache: torch.Tensor
    v_cache: torch.Tensor
    meta: AttentionMetadata
    sequences: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]  # q, k, v of each, in the clear


def packed(
    lens: list[tuple[int, int]], *, heads: int = 4, kv_heads: int = 2, block_size: int = 4, seed: int = 0
) -> Packed:
    """`lens`: (new tokens, tokens in all) of each sequence. The new ones' K and V are not in the cache yet."""
    generator = torch.Generator().manual_seed(seed)
    lens = sorted(lens, key=lambda pair: pair[0] > 1)
    counts = [-(-context // block_size) + seed % 2 for _, context in lens]  # sometimes a block more than is filled
    order = random.Random(seed).sample(range(sum(counts) + 3), sum(counts))
    tables = [[order.pop() for _ in range(count)] for count in counts]
    k_cache, v_cache = (torch.full((sum(counts) + 3, block_size, kv_heads, HEAD_DIM), 50.0) for _ in range(2))
    sequences, slots = [], []
    for (new, context), table in zip(lens, tables, strict=True):
        q = torch.randn(new, heads, HEAD_DIM, generator=generator)
        k, v = (torch.randn(context, kv_heads, HEAD_DIM, generator=generator) for _ in range(2))
        sequences.append((q, k, v))
        places = [table[p // block_size] * block_size + p % block_size for p in range(context)]
        for place, key, value in zip(places[: context - new], k, v, strict=False):
            k_cache[place // block_size, place % block_size] = key
            v_cache[place // block_size, place % block_size] = value
        slots += places[context - new :]
    widest = max(counts)
    meta = AttentionMetadata(
        query_lens=[new for new, _ in lens],
        context_lens=[context for _, context in lens],
        slot_mapping=torch.tensor(slots),
        block_tables=torch.tensor([table + table[:1] * (widest - len(table)) for table in tables]),
        block_size=block_size,
    )
    new_k, new_v = (torch.cat([s[i][len(s[i]) - len(s[0]) :] for s in sequences]) for i in (1, 2))
    return Packed(torch.cat([s[0] for s in sequences]), new_k, new_v, k_cache, v_cache, meta, sequences)


def run(step: Packed, backend: object, spec: AttentionSpec) -> torch.Tensor:
    store_kvcache(step.k, step.v, step.k_cache, step.v_cache, step.meta.slot_mapping)
    out: torch.Tensor = backend.paged_attention(step.q, step.k_cache, step.v_cache, spec, step.meta)  # type: ignore[attr-defined]
    assert out.shape == step.q.shape
    return out


RAGGED = [(1, 1), (1, 9), (7, 7), (3, 8), (1, 4), (5, 17)]
ALL_BACKENDS = pytest.mark.parametrize("backend", [reference_backend, sdpa], ids=["reference", "sdpa"])


@ALL_BACKENDS
@pytest.mark.parametrize("window", [None, 1, 3, 8, 100])
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (4, 2), (6, 1)])
def test_decodes_and_prefills_of_one_step_equal_the_loop(
    backend: object, window: int | None, heads: int, kv_heads: int
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
    out = run(step, sdpa, AttentionSpec(scale=0.25, window=window))
    torch.testing.assert_close(out.double(), expected, atol=1e-5, rtol=1e-5)


def test_the_reference_caps_scores() -> None:
    step = packed(RAGGED)
    out = run(step, reference_backend, AttentionSpec(scale=2.0, softcap=1.5))
    expected = torch.cat([by_hand(q, k, v, 2.0, softcap=1.5) for q, k, v in step.sequences])
    torch.testing.assert_close(out.double(), expected, atol=1e-5, rtol=1e-5)


lengths = st.tuples(st.integers(1, 12), st.integers(0, 20)).map(lambda pair: (pair[0], pair[0] + pair[1]))


@settings(max_examples=60)
@given(
    lens=st.lists(st.one_of(lengths, st.integers(1, 30).map(lambda n: (1, n))), min_size=1, max_size=6),
    window=st.none() | st.integers(1, 40),
    heads=st.sampled_from([(1, 1), (4, 2), (6, 3), (9, 3)]),
    block_size=st.sampled_from([1, 2, 5, 16]),
    seed=st.integers(0, 1000),
)
def test_sdpa_equals_the_reference_over_any_layout(
    lens: list[tuple[int, int]], window: int | None, heads: tuple[int, int], block_size: int, seed: int
) -> None:
    step = packed(lens, heads=heads[0], kv_heads=heads[1], block_size=block_size, seed=seed)
    spec = AttentionSpec(scale=HEAD_DIM**-0.5, window=window)
    expected = run(step, reference_backend, spec)
    torch.testing.assert_close(run(step, sdpa, spec), expected, atol=1e-5, rtol=1e-5)


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
        torch.testing.assert_close(outs[-1], reference_backend.paged_attention(q, k_cache, v_cache, spec, meta))
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
def test_what_other_sequences_hold_in_their_blocks_changes_nothing(backend: object) -> None:
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


def test_auto_says_why_it_chose() -> None:
    assert (choose_attention("auto", needs_softcap=False).name, choose_attention("auto", needs_softcap=True).name) == (
        "sdpa",
        "reference",
    )
    assert "caps" in choose_attention("auto", needs_softcap=True).reason
    assert choose_attention("reference", needs_softcap=True).function is reference_backend.paged_attention
    with pytest.raises(UnsupportedError, match="'sdpa' cannot cap"):
        choose_attention("sdpa", needs_softcap=True)
