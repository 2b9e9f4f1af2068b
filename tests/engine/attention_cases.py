"""Steps for attention backends: ragged batches over a paged cache whose blocks lie in random order, and the loop that
anybody can check by hand."""

import math
import random
from dataclasses import dataclass

import torch
from hypothesis import strategies as st

from mp13.engine.attention.metadata import AttentionMetadata
from mp13.engine.attention.reference import store_kvcache
from mp13.engine.attention.registry import AttentionSpec, PagedAttentionFunction

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
    """A step, with garbage in the cache wherever no sequence's token is."""

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    k_cache: torch.Tensor
    v_cache: torch.Tensor
    meta: AttentionMetadata
    sequences: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]  # q, k, v of each, in the clear

    def to(self, dtype: torch.dtype) -> "Packed":
        tensors = [x.to(dtype) for x in (self.q, self.k, self.v, self.k_cache, self.v_cache)]
        return Packed(*tensors, self.meta, self.sequences)


def packed(
    lens: list[tuple[int, int]],
    *,
    heads: int = 4,
    kv_heads: int = 2,
    head_dim: int = HEAD_DIM,
    block_size: int = 4,
    seed: int = 0,
    device: str = "cpu",
) -> Packed:
    """`lens`: (new tokens, tokens in all) of each sequence. The new ones' K and V are not in the cache yet."""
    generator = torch.Generator().manual_seed(seed)
    lens = sorted(lens, key=lambda pair: pair[0] > 1)
    counts = [-(-context // block_size) + seed % 2 for _, context in lens]  # sometimes a block more than is filled
    order = random.Random(seed).sample(range(sum(counts) + 3), sum(counts))
    tables = [[order.pop() for _ in range(count)] for count in counts]
    k_cache, v_cache = (torch.full((sum(counts) + 3, block_size, kv_heads, head_dim), 50.0) for _ in range(2))
    sequences, slots = [], []
    for (new, context), table in zip(lens, tables, strict=True):
        q = torch.randn(new, heads, head_dim, generator=generator)
        k, v = (torch.randn(context, kv_heads, head_dim, generator=generator) for _ in range(2))
        sequences.append((q, k, v))
        places = torch.tensor([table[p // block_size] * block_size + p % block_size for p in range(context)])
        past = places[: context - new]
        k_cache.flatten(0, 1)[past], v_cache.flatten(0, 1)[past] = k[: context - new], v[: context - new]
        slots += places[context - new :].tolist()
    widest = max(counts)
    meta = AttentionMetadata(
        query_lens=[new for new, _ in lens],
        context_lens=[context for _, context in lens],
        slot_mapping=torch.tensor(slots, device=device),
        block_tables=torch.tensor(
            [table + table[:1] * (widest - len(table)) for table in tables], dtype=torch.int32, device=device
        ),
        block_size=block_size,
    )
    new_k, new_v = (torch.cat([s[i][len(s[i]) - len(s[0]) :] for s in sequences]) for i in (1, 2))
    tensors = (torch.cat([s[0] for s in sequences]), new_k, new_v, k_cache, v_cache)
    return Packed(*(tensor.to(device) for tensor in tensors), meta, sequences)


def run(step: Packed, attend: PagedAttentionFunction, spec: AttentionSpec) -> torch.Tensor:
    store_kvcache(step.k, step.v, step.k_cache, step.v_cache, step.meta.slot_mapping)
    out = attend(step.q, step.k_cache, step.v_cache, spec, step.meta)
    assert out.shape == step.q.shape
    return out


def relative_error(out: torch.Tensor, expected: torch.Tensor) -> float:
    return float((out.float() - expected.float()).norm() / expected.float().norm())


_CHUNKS = st.tuples(st.integers(1, 12), st.integers(0, 20)).map(lambda pair: (pair[0], pair[0] + pair[1]))
LENS = st.lists(st.one_of(_CHUNKS, st.integers(1, 30).map(lambda n: (1, n))), min_size=1, max_size=6)
