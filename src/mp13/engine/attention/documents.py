"""Attention of whole texts packed one after the other, with gradients and without a cache: what training needs.

Each text is attended to by itself, so that none can look into another.
"""

from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch.nn import functional as F

from mp13.engine.attention.blocked import BlockedLayout, blocked_attention
from mp13.engine.attention.metadata import causal_mask
from mp13.engine.attention.reference import attend
from mp13.engine.attention.registry import AttentionSpec
from mp13.engine.linear.base_weight import has_fast_bfloat16


@dataclass(frozen=True)
class Documents:
    """`lens`: tokens of each text, in order; together T."""

    lens: tuple[int, ...]
    _masks: dict[tuple[int, int | None], torch.Tensor] = field(default_factory=dict, repr=False)

    @cached_property
    def blocked(self) -> BlockedLayout:
        return BlockedLayout(self.lens)

    def mask(self, length: int, window: int | None, device: torch.device) -> torch.Tensor:
        """(length, length) bool, made in the first layer that asks for it."""
        key = (length, window)
        if key not in self._masks:
            self._masks[key] = causal_mask(length, length, window, device)
        return self._masks[key]


def attend_documents(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, spec: AttentionSpec, documents: Documents
) -> torch.Tensor:
    """q: (T, num_heads, head_dim); k, v: (T, num_kv_heads, head_dim) -> (T, num_heads, head_dim)"""
    if q.device.type == "cpu" and q.dtype == torch.bfloat16 and has_fast_bfloat16() and not spec.softcap:
        return blocked_attention(q, k, v, documents.blocked, spec.scale, spec.window)
    lens = list(documents.lens)
    parts = zip(torch.split(q, lens), torch.split(k, lens), torch.split(v, lens), strict=True)
    outputs = [_attend(one_q, one_k, one_v, spec, documents) for one_q, one_k, one_v in parts]
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


def _attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, spec: AttentionSpec, documents: Documents
) -> torch.Tensor:
    if spec.softcap:
        window = (-1 if spec.window is None else spec.window - 1, 0)
        return attend(q, k, v, spec.scale, causal=True, window_size=window, softcap=spec.softcap)
    length = len(q)
    whole = spec.window is None or length <= spec.window
    out = F.scaled_dot_product_attention(
        q.transpose(0, 1)[None],
        k.transpose(0, 1)[None],
        v.transpose(0, 1)[None],
        attn_mask=None if whole else documents.mask(length, spec.window, q.device),
        is_causal=whole,
        scale=spec.scale,
        enable_gqa=q.shape[1] != k.shape[1],
    )
    return out[0].transpose(0, 1)
