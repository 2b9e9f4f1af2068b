"""Attention in plain PyTorch, written to be read. The oracle for every other backend; importable alone.

`flash_attn_varlen_func` and `flash_attn_with_kvcache` have the signatures of the flash-attn library, `store_kvcache`
that of vLLM's cache writer, so what is learned here is what the fast kernels compute.
"""

import math

import torch


def store_kvcache(
    key: torch.Tensor,
    value: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    slot_mapping: torch.Tensor,
) -> None:
    """Write each new token's key and value into its slot of the paged cache.

    Args:
        key, value: (T, num_kv_heads, head_dim).
        k_cache, v_cache: (num_blocks, block_size, num_kv_heads, head_dim), changed in place.
        slot_mapping: (T,) int64, slot = block * block_size + offset within the block.
    """
    k_cache.view(-1, *key.shape[1:]).index_copy_(0, slot_mapping, key)
    v_cache.view(-1, *value.shape[1:]).index_copy_(0, slot_mapping, value)


def flash_attn_varlen_func(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cu_seqlens_q: torch.Tensor,
    cu_seqlens_k: torch.Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    block_table: torch.Tensor | None = None,
) -> torch.Tensor:
    """Attention of several sequences of different lengths, packed one after the other.

    Args:
        q: (total_q, num_heads, head_dim).
        k, v: (total_k, num_kv_heads, head_dim), or the paged cache (num_blocks, block_size, num_kv_heads, head_dim)
            when `block_table` (B, max_blocks) says which blocks hold each sequence.
        cu_seqlens_q, cu_seqlens_k: (B + 1,), where each sequence starts; sequence i spans [cu[i], cu[i + 1]).
        causal: query i of m sees keys up to i + (n - m) of n: the mask is aligned at the lower right.
        window_size: keys to the left and right of the diagonal that a query sees; -1 is no limit.
        softcap: scores become softcap * tanh(scores / softcap) when above 0.

    Returns (total_q, num_heads, head_dim).
    """
    starts_q, starts_k = cu_seqlens_q.tolist(), cu_seqlens_k.tolist()
    outputs = []
    for i in range(len(starts_q) - 1):
        len_k = starts_k[i + 1] - starts_k[i]
        if block_table is None:
            keys, values = k[starts_k[i] : starts_k[i + 1]], v[starts_k[i] : starts_k[i + 1]]
        else:
            blocks = block_table[i, : -(-len_k // k.shape[1])].long()
            keys, values = k[blocks].flatten(0, 1)[:len_k], v[blocks].flatten(0, 1)[:len_k]
        queries = q[starts_q[i] : starts_q[i + 1]]
        outputs.append(attend(queries, keys, values, softmax_scale, causal, window_size, softcap))
    return torch.cat(outputs)


def flash_attn_with_kvcache(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    k: torch.Tensor | None = None,
    v: torch.Tensor | None = None,
    *,
    cache_seqlens: torch.Tensor | int | None = None,
    block_table: torch.Tensor | None = None,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
) -> torch.Tensor:
    """Attention of the same number of new tokens in each sequence over its cached keys and values: a decode step.

    Args:
        q: (B, m, num_heads, head_dim).
        k_cache, v_cache: (B, max_len, num_kv_heads, head_dim), or with `block_table` (B, max_blocks) the paged cache
            (num_blocks, block_size, num_kv_heads, head_dim).
        k, v: (B, m_new, num_kv_heads, head_dim), first written into the cache, in place, behind `cache_seqlens`.
        cache_seqlens: (B,) or one for all, how many keys of each sequence are in the cache; None is all of it.
        causal, window_size, softcap: as in `flash_attn_varlen_func`.

    Returns (B, m, num_heads, head_dim).
    """
    block_size = k_cache.shape[1]
    room = block_size if block_table is None else block_size * block_table.shape[1]
    lens = torch.as_tensor(room if cache_seqlens is None else cache_seqlens).expand(len(q)).tolist()
    # A cache that is not paged is one with a single block a sequence.
    table = torch.arange(len(q), device=q.device)[:, None] if block_table is None else block_table.long()
    outputs = []
    for i, (blocks, num_cached) in enumerate(zip(table, lens, strict=True)):
        if k is not None and v is not None:
            places = torch.arange(num_cached, num_cached + k.shape[1], device=q.device)
            slots = blocks[places // block_size] * block_size + places % block_size
            store_kvcache(k[i], v[i], k_cache, v_cache, slots)
            num_cached += k.shape[1]
        blocks = blocks[: -(-num_cached // block_size)]
        keys, values = k_cache[blocks].flatten(0, 1)[:num_cached], v_cache[blocks].flatten(0, 1)[:num_cached]
        outputs.append(attend(q[i], keys, values, softmax_scale, causal, window_size, softcap))
    return torch.stack(outputs)


def attend(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
) -> torch.Tensor:
    """One sequence: softmax(q kᵀ · scale + mask) v (Vaswani et al. 2017), in float32.

    q: (m, num_heads, head_dim); k, v: (n, num_kv_heads, head_dim). With fewer KV heads than heads, each is shared by
    num_heads / num_kv_heads query heads (grouped-query attention, Ainslie et al. 2023).
    """
    m, num_heads, head_dim = q.shape
    n, num_kv_heads, _ = k.shape
    group = num_heads // num_kv_heads
    k = k.repeat_interleave(group, dim=1)  # (n, num_heads, head_dim)
    v = v.repeat_interleave(group, dim=1)

    scores = torch.einsum("mhd,nhd->hmn", q.float(), k.float())  # (num_heads, m, n)
    scores = scores * (softmax_scale or 1 / math.sqrt(head_dim))
    if softcap > 0:
        scores = softcap * torch.tanh(scores / softcap)

    # A query's own place among the n keys: the m queries are the last m of them.
    distance = torch.arange(n, device=q.device) - torch.arange(n - m, n, device=q.device)[:, None]  # (m, n)
    left, right = window_size[0], 0 if causal else window_size[1]
    if right >= 0:
        scores = scores.masked_fill(distance > right, -math.inf)
    if left >= 0:
        scores = scores.masked_fill(distance < -left, -math.inf)

    blind = scores.isneginf().all(-1, keepdim=True)  # a query that sees no key gets 0
    return torch.einsum("hmn,nhd->mhd", scores.softmax(-1).masked_fill(blind, 0), v.float()).to(q.dtype)
