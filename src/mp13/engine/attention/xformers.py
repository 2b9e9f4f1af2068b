"""Attention through xFormers over the paged cache: a decode by its split-k kernel, which reads pages where they are.

That kernel knows neither windows nor prefills; for these, keys and values are gathered to lie side by side.
"""

from typing import Any

import torch

from mp13.engine.attention.metadata import AttentionMetadata
from mp13.engine.attention.registry import AttentionSpec


def paged_attention(
    q: torch.Tensor, k_cache: torch.Tensor, v_cache: torch.Tensor, spec: AttentionSpec, meta: AttentionMetadata
) -> torch.Tensor:
    """q: (T, num_heads, head_dim) -> the same shape; the caches already hold the new tokens' K and V."""
    n = meta.num_decodes if spec.window is None else 0  # so many sequences go to the split-k kernel
    outputs = [_decode(q[:n], k_cache, v_cache, spec, meta)] if n else []
    if n < len(meta.query_lens):
        outputs.append(_gathered(q[n:], k_cache, v_cache, spec, meta, n))
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


def _decode(
    q: torch.Tensor, k_cache: torch.Tensor, v_cache: torch.Tensor, spec: AttentionSpec, meta: AttentionMetadata
) -> torch.Tensor:
    from xformers.ops.fmha import triton_splitk
    from xformers.ops.fmha.attn_bias import PagedBlockDiagonalCausalWithOffsetPaddedKeysMask

    n = len(q)
    bias = meta.once(
        ("xformers", n),
        lambda: PagedBlockDiagonalCausalWithOffsetPaddedKeysMask.from_seqlens(
            q_seqlen=[1] * n,
            kv_seqlen=meta.context_lens[:n],
            block_tables=meta.block_tables[:n],
            page_size=meta.block_size,
            device=q.device,
        ),
    )
    return _attend(q, k_cache.flatten(0, 1), v_cache.flatten(0, 1), bias, spec.scale, triton_splitk.FwOp)


def _gathered(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    spec: AttentionSpec,
    meta: AttentionMetadata,
    first: int,
) -> torch.Tensor:
    """The sequences from number `first` on."""
    from xformers.ops.fmha.attn_bias import BlockDiagonalCausalFromBottomRightMask

    def make_bias() -> Any:
        bias = BlockDiagonalCausalFromBottomRightMask.from_seqlens(
            meta.query_lens[first:], meta.context_lens[first:], device=q.device
        )
        return bias if spec.window is None else bias.make_local_attention_from_bottomright(spec.window)

    bias = meta.once(("xformers gathered", first, spec.window), make_bias)
    slots = meta.once(("xformers slots", first), lambda: _key_slots(meta, first))
    k, v = (cache.flatten(0, 1).index_select(0, slots) for cache in (k_cache, v_cache))
    return _attend(q, k, v, bias, spec.scale, None)


def _key_slots(meta: AttentionMetadata, first: int) -> torch.Tensor:
    """(total keys,) the cache slots of all keys of the sequences from number `first` on, in order."""
    offsets = torch.arange(meta.block_size, device=meta.block_tables.device)
    rows = zip(meta.block_tables[first:], meta.context_lens[first:], strict=True)
    return torch.cat([(table[:, None] * meta.block_size + offsets).flatten()[:length] for table, length in rows])


def _attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: Any, scale: float, op: Any) -> torch.Tensor:
    """q: (T, num_heads, head_dim); k, v: (keys, num_kv_heads, head_dim) -> (T, num_heads, head_dim)"""
    from xformers.ops import fmha

    num_tokens, num_heads, head_dim = q.shape
    groups = k.shape[1]
    q5 = q.reshape(1, num_tokens, groups, num_heads // groups, head_dim)
    k5, v5 = (x[None, :, :, None].expand(-1, -1, -1, num_heads // groups, -1) for x in (k, v))
    out: torch.Tensor = fmha.memory_efficient_attention_forward(q5, k5, v5, attn_bias=bias, scale=scale, op=op)
    return out.reshape(num_tokens, num_heads, head_dim)
