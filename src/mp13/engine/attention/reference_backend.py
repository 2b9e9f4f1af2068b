"""The readable attention as a backend over the paged cache."""

import torch

from mp13.engine.attention.metadata import AttentionMetadata
from mp13.engine.attention.reference import flash_attn_varlen_func
from mp13.engine.attention.registry import AttentionSpec


def paged_attention(
    q: torch.Tensor, k_cache: torch.Tensor, v_cache: torch.Tensor, spec: AttentionSpec, meta: AttentionMetadata
) -> torch.Tensor:
    """q: (T, num_heads, head_dim) -> the same shape; the caches already hold the new tokens' K and V."""
    return flash_attn_varlen_func(
        q,
        k_cache,
        v_cache,
        cu_seqlens_q=_starts(meta.query_lens),
        cu_seqlens_k=_starts(meta.context_lens),
        max_seqlen_q=max(meta.query_lens),
        max_seqlen_k=max(meta.context_lens),
        softmax_scale=spec.scale,
        causal=True,
        window_size=(-1 if spec.window is None else spec.window - 1, 0),
        softcap=spec.softcap,
        block_table=meta.block_tables,
    )


def _starts(lens: list[int]) -> torch.Tensor:
    return torch.tensor([0, *lens]).cumsum(0)
