"""Attention through the functions of the flash-attn library, over the paged cache: its versions 2, 3 and 4, and
`reference`, which has the functions of version 2 in plain PyTorch. The libraries are imported when they are called.
"""

from importlib import import_module
from typing import Any

import torch

from mp13.engine.attention import reference
from mp13.engine.attention.metadata import AttentionMetadata
from mp13.engine.attention.registry import AttentionSpec


def reference_attention(
    q: torch.Tensor, k_cache: torch.Tensor, v_cache: torch.Tensor, spec: AttentionSpec, meta: AttentionMetadata
) -> torch.Tensor:
    """q: (T, num_heads, head_dim) -> the same shape; the caches already hold the new tokens' K and V."""
    return _decode_and_prefill(reference, q, k_cache, v_cache, spec, meta)


def flash_attention_2(
    q: torch.Tensor, k_cache: torch.Tensor, v_cache: torch.Tensor, spec: AttentionSpec, meta: AttentionMetadata
) -> torch.Tensor:
    """As `reference_attention`, by Dao 2023."""
    library = import_module("flash_attn.flash_attn_interface")
    return _decode_and_prefill(library, q, k_cache, v_cache, spec, meta)


def _decode_and_prefill(
    library: Any,
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    spec: AttentionSpec,
    meta: AttentionMetadata,
) -> torch.Tensor:
    """Sequences with one new token at the front of the batch go to the function that splits their keys."""
    n = meta.num_decodes
    rest = {"softmax_scale": spec.scale, "causal": True, "window_size": _window(spec), "softcap": spec.softcap}
    outputs = []
    if n:
        out = library.flash_attn_with_kvcache(
            q[:n, None], k_cache, v_cache, cache_seqlens=meta.seqused_k[:n], block_table=meta.block_tables[:n], **rest
        )
        outputs.append(out[:, 0])
    if n < len(meta.query_lens):
        outputs.append(
            library.flash_attn_varlen_func(
                q[n:],
                k_cache,
                v_cache,
                cu_seqlens_q=meta.cu_seqlens_q[n:] - n,
                cu_seqlens_k=meta.cu_seqlens_k[n:] - meta.cu_seqlens_k[n],
                max_seqlen_q=max(meta.query_lens[n:]),
                max_seqlen_k=max(meta.context_lens[n:]),
                block_table=meta.block_tables[n:],
                **rest,
            )
        )
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


def flash_attention_3(
    q: torch.Tensor, k_cache: torch.Tensor, v_cache: torch.Tensor, spec: AttentionSpec, meta: AttentionMetadata
) -> torch.Tensor:
    """As `reference_attention`, by Shah et al. 2024. One call takes decodes and prefills together."""
    library = import_module("flash_attn_interface")  # as the folder `hopper` of its repository installs it
    out: torch.Tensor = library.flash_attn_with_kvcache(
        q,
        k_cache,
        v_cache,
        cache_seqlens=meta.seqused_k,
        page_table=meta.block_tables,
        cu_seqlens_q=meta.cu_seqlens_q,
        max_seqlen_q=max(meta.query_lens),
        softmax_scale=spec.scale,
        causal=True,
        window_size=_window(spec),
        softcap=spec.softcap,
    )
    return out


def flash_attention_4(
    q: torch.Tensor, k_cache: torch.Tensor, v_cache: torch.Tensor, spec: AttentionSpec, meta: AttentionMetadata
) -> torch.Tensor:
    """As `reference_attention`, by the CuTe kernels of flash-attn 4."""
    from flash_attn.cute import flash_attn_varlen_func

    out = flash_attn_varlen_func(
        q,
        k_cache,
        v_cache,
        cu_seqlens_q=meta.cu_seqlens_q,
        seqused_k=meta.seqused_k,
        page_table=meta.block_tables,
        max_seqlen_q=max(meta.query_lens),
        max_seqlen_k=max(meta.context_lens),
        softmax_scale=spec.scale,
        causal=True,
        window_size=(None, None) if spec.window is None else (spec.window - 1, 0),
        softcap=spec.softcap,
    )
    return out[0] if isinstance(out, tuple) else out


def _window(spec: AttentionSpec) -> tuple[int, int]:
    return (-1 if spec.window is None else spec.window - 1, 0)
