"""Attention through torch's scaled_dot_product_attention, over the paged cache.

Sequences that decode one token are taken together, padded to the longest; a prefill chunk is taken alone.
"""

from contextlib import nullcontext
from typing import Any

import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from mp13.engine.attention.metadata import AttentionMetadata
from mp13.engine.attention.registry import AttentionSpec

# Not cuDNN's, which plans for milliseconds at each call with a length that it has not just seen.
_GPU_KERNELS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


def product_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **options: Any) -> torch.Tensor:
    """torch's own, by kernels that take any length at once. q: (B, num_heads, n, head_dim); `options` are torch's."""
    with sdpa_kernel(_GPU_KERNELS) if q.is_cuda else nullcontext():
        return F.scaled_dot_product_attention(q, k, v, **options)


def paged_attention(
    q: torch.Tensor, k_cache: torch.Tensor, v_cache: torch.Tensor, spec: AttentionSpec, meta: AttentionMetadata
) -> torch.Tensor:
    """q: (T, num_heads, head_dim) -> the same shape; the caches already hold the new tokens' K and V."""
    num_decodes = meta.num_decodes
    outputs = [_decode(q[:num_decodes], k_cache, v_cache, spec, meta)] if num_decodes else []
    start = num_decodes
    for row in range(num_decodes, len(meta.query_lens)):
        stop = start + meta.query_lens[row]
        outputs.append(_prefill(q[start:stop], k_cache, v_cache, spec, meta, row))
        start = stop
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


def _decode(
    q: torch.Tensor, k_cache: torch.Tensor, v_cache: torch.Tensor, spec: AttentionSpec, meta: AttentionMetadata
) -> torch.Tensor:
    batch, num_heads, head_dim = q.shape
    num_kv_heads = k_cache.shape[2]
    num_blocks = meta.num_decode_blocks
    if (first := meta.first_of_run) is not None:  # the usual case of one chat: no copy of its history
        k, v = k_cache[first : first + num_blocks], v_cache[first : first + num_blocks]
    else:
        blocks = meta.block_tables[:batch, :num_blocks].flatten()
        k, v = k_cache.index_select(0, blocks), v_cache.index_select(0, blocks)
    k = k.view(batch, -1, num_kv_heads, head_dim).transpose(1, 2)  # (B, KV heads, n, D)
    v = v.view(batch, -1, num_kv_heads, head_dim).transpose(1, 2)
    # The query heads that share a KV head become its queries: no key is copied for grouped-query attention.
    q = q.view(batch, num_kv_heads, num_heads // num_kv_heads, head_dim)
    mask = None
    if batch == 1 and spec.window is None:
        k, v = k[:, :, : meta.context_lens[0]], v[:, :, : meta.context_lens[0]]
    else:
        mask = meta.decode_mask(spec.window)
    out = product_attention(q, k, v, attn_mask=mask, scale=spec.scale)
    return out.reshape(batch, num_heads, head_dim)


def _prefill(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    spec: AttentionSpec,
    meta: AttentionMetadata,
    row: int,
) -> torch.Tensor:
    query_len, num_heads, _ = q.shape
    context_len = meta.context_lens[row]
    blocks = meta.block_tables[row, : -(-context_len // meta.block_size)]
    k = k_cache.index_select(0, blocks).flatten(0, 1)[:context_len].transpose(0, 1)  # (KV heads, n, D)
    v = v_cache.index_select(0, blocks).flatten(0, 1)[:context_len].transpose(0, 1)
    whole = query_len == context_len and (spec.window is None or context_len <= spec.window)
    out = product_attention(
        q.transpose(0, 1)[None],
        k[None],
        v[None],
        attn_mask=None if whole else meta.mask(row, spec.window),
        is_causal=whole,
        scale=spec.scale,
        enable_gqa=num_heads != k.shape[0],
    )
    return out[0].transpose(0, 1)  # (query_len, num_heads, head_dim)
