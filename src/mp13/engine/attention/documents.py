"""Attention of whole texts packed one after the other, with gradients and without a cache: what training needs.

No text can look into another: each is attended to by itself, or by a kernel that is told where they begin.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, cached_property, partial
from itertools import accumulate
from typing import Any

import torch

from mp13.engine.attention.blocked import BlockedLayout, blocked_attention
from mp13.engine.attention.metadata import causal_mask
from mp13.engine.attention.reference import attend
from mp13.engine.attention.registry import AttentionSpec
from mp13.engine.attention.sdpa import product_attention
from mp13.engine.linear.base_weight import has_fast_bfloat16

_HALF = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Documents:
    """`lens`: tokens of each text, in order; together T."""

    lens: tuple[int, ...]
    _kept: dict[tuple[object, ...], torch.Tensor] = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def blocked(self) -> BlockedLayout:
        return BlockedLayout(self.lens)

    def mask(self, length: int, window: int | None, device: torch.device) -> torch.Tensor:
        """(length, length) bool, made in the first layer that asks for it."""
        key = (length, window)
        if key not in self._kept:
            self._kept[key] = causal_mask(length, length, window, device)
        return self._kept[key]

    def starts(self, device: torch.device) -> torch.Tensor:
        """(texts + 1,) int32: where each text begins, as flash attention wants it."""
        if () not in self._kept:
            self._kept[()] = torch.tensor([0, *accumulate(self.lens)], dtype=torch.int32, device=device)
        return self._kept[()]


def attend_documents(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, spec: AttentionSpec, documents: Documents
) -> torch.Tensor:
    """q: (T, num_heads, head_dim); k, v: (T, num_kv_heads, head_dim) -> (T, num_heads, head_dim)"""
    if not spec.softcap:
        if q.device.type == "cpu" and q.dtype == torch.bfloat16 and has_fast_bfloat16():
            return blocked_attention(q, k, v, documents.blocked, spec.scale, spec.window)
        if q.is_cuda and q.dtype in _HALF and (flash := _varlen(q.device.index)) is not None:
            return flash(q, k, v, spec, documents)
    lens = list(documents.lens)
    parts = zip(torch.split(q, lens), torch.split(k, lens), torch.split(v, lens), strict=True)
    outputs = [_attend(one_q, one_k, one_v, spec, documents) for one_q, one_k, one_v in parts]
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


def _attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, spec: AttentionSpec, documents: Documents
) -> torch.Tensor:
    """One text."""
    if spec.softcap:
        window = (-1 if spec.window is None else spec.window - 1, 0)
        return attend(q, k, v, spec.scale, causal=True, window_size=window, softcap=spec.softcap)
    length = len(q)
    whole = spec.window is None or length <= spec.window
    out = product_attention(
        q.transpose(0, 1)[None],
        k.transpose(0, 1)[None],
        v.transpose(0, 1)[None],
        attn_mask=None if whole else documents.mask(length, spec.window, q.device),
        is_causal=whole,
        scale=spec.scale,
        enable_gqa=q.shape[1] != k.shape[1],
    )
    return out[0].transpose(0, 1)


@cache
def _varlen(device: int) -> Callable[..., torch.Tensor] | None:
    """torch's flash attention over packed texts, where it is there (torch 2.11) and the GPU runs it."""
    if torch.cuda.get_device_capability(device) < (8, 0):
        return None
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    known = inspect.signature(varlen_attn).parameters.keys()
    return partial(_flash, varlen_attn, "enable_gqa" in known) if {"scale", "window_size"} <= known else None


def _flash(
    varlen_attn: Callable[..., Any],
    has_groups: bool,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    spec: AttentionSpec,
    documents: Documents,
) -> torch.Tensor:
    """`has_groups`: it shares a head of k and v among several of q; else (before torch 2.12) they are repeated."""
    groups, options = q.shape[1] // k.shape[1], dict[str, bool]()
    if groups > 1 and has_groups:
        options["enable_gqa"] = True
    elif groups > 1:
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    starts, longest = documents.starts(q.device), max(documents.lens)
    window = (-1 if spec.window is None else spec.window - 1, 0)
    out: torch.Tensor = varlen_attn(
        q, k, v, starts, starts, longest, longest, scale=spec.scale, window_size=window, **options
    )
    return out
