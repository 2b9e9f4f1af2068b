"""Attention backends by name, and the choice `auto` makes. A backend is one function over the paged cache."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

import torch

from mp13.engine.attention.metadata import AttentionMetadata
from mp13.errors import UnsupportedError


@dataclass(frozen=True)
class AttentionSpec:
    """What distinguishes one attention layer from another. `window`: keys a query sees, itself included."""

    scale: float
    window: int | None = None
    softcap: float = 0.0


# (q, k_cache, v_cache, spec, metadata) -> output, q and output (T, num_heads, head_dim)
PagedAttentionFunction = Callable[
    [torch.Tensor, torch.Tensor, torch.Tensor, AttentionSpec, AttentionMetadata], torch.Tensor
]

_BACKENDS = {"reference": "mp13.engine.attention.reference_backend", "sdpa": "mp13.engine.attention.sdpa"}
_WITHOUT_SOFTCAP = {"sdpa"}


@dataclass(frozen=True)
class AttentionChoice:
    name: str
    reason: str
    function: PagedAttentionFunction


def choose_attention(name: str, *, needs_softcap: bool) -> AttentionChoice:
    """The backend called `name`; for "auto", the fastest that computes what the model needs.

    Raises:
        UnsupportedError: the named backend cannot compute this model's attention.
    """
    reason = "chosen by the settings"
    if name == "auto":
        name, reason = ("reference", "the model caps its attention scores, which SDPA cannot") if needs_softcap else (
            "sdpa", "torch's own fused attention"
        )  # fmt: skip
    elif needs_softcap and name in _WITHOUT_SOFTCAP:
        raise UnsupportedError(
            f"attn_implementation = {name!r} cannot cap attention scores, which this model needs; "
            "choose 'reference' or 'auto'"
        )
    return AttentionChoice(name, reason, import_module(_BACKENDS[name]).paged_attention)
