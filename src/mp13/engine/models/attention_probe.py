"""Asks each attention module of a Transformers model what it computes, by running one token through the model.

Scale, softcap and shapes come from the module's call of the attention function; the window comes from the model's own
mask, since some families never tell their attention function about it.
"""

from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface

from mp13.engine.attention.metadata import causal_mask
from mp13.engine.attention.registry import AttentionSpec
from mp13.errors import ModelError

_PLAIN, _FAR = "mp13_probe", "mp13_probe_far"  # names in Transformers' registries
_LONGEST = 1 << 18  # tokens; a window beyond this is none
_CANNOT = ("position_bias", "s_aux", "sinks", "indices", "block_indices")  # arguments that change the result


@dataclass(frozen=True)
class AttentionLayer:
    """One attention module, and what its layer leaves in the cache."""

    module: nn.Module
    layer_idx: int
    spec: AttentionSpec
    num_kv_heads: int
    head_dim: int


_found: ContextVar[list[AttentionLayer]] = ContextVar("found")  # of the probe that runs in this thread


@torch.inference_mode()
def probe_attention(model: PreTrainedModel) -> list[AttentionLayer]:
    """The attention layers of `model` in order.

    Raises:
        ModelError: not every layer calls the attention function once, or one asks for what our attention cannot do.
    """
    found: list[AttentionLayer] = []
    reset = _found.set(found)
    try:
        for name in (_PLAIN, _FAR):  # first who calls us at all: a model that does not could not use the far mask
            set_attention(model, name)
            found.clear()
            zero = torch.zeros(1, 1, dtype=torch.int64, device=model.device)
            # With an all-ones mask, Transformers does not look for packed texts and makes the rule for one text alone.
            model(input_ids=zero + 10, position_ids=zero, attention_mask=zero + 1, use_cache=False)
            _require_each_layer(found, model.config.get_text_config().num_hidden_layers)
    finally:
        _found.reset(reset)
    return found


def _require_each_layer(found: list[AttentionLayer], num_layers: int) -> None:
    if not found:
        raise ModelError("its layers never call the attention function of Transformers' AttentionInterface")
    indices = [layer.layer_idx for layer in found]
    if indices != list(range(num_layers)):
        raise ModelError(f"layers {indices} call the attention function, where each of {num_layers} should, once")


def set_attention(model: PreTrainedModel, name: str) -> None:
    """Let `model` call the attention function registered as `name`; works on Transformers 4.53 and 5 alike."""
    for module in model.modules():
        config: Any = getattr(module, "config", None)
        if hasattr(config, "_attn_implementation"):
            config._attn_implementation = name


def _record(
    module: nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: Any, **kwargs: Any
) -> tuple[torch.Tensor, None]:
    """The attention function of the probe: notes who calls with what, and computes nothing."""
    _found.get().append(_describe(module, query, key, value, mask, kwargs))
    return torch.zeros_like(query).transpose(1, 2), None  # (1, 1, num_heads, head_dim)


def _far_mask(*, config: Any, mask_function: Any, **_: Any) -> torch.Tensor:
    """(1, 1, 2, n) bool: what the last two tokens of the longest text see, by the model's own rule."""
    context_len = min(getattr(config, "max_position_embeddings", None) or _LONGEST, _LONGEST)
    zero, keys = torch.tensor(0), torch.arange(context_len)
    rows = [mask_function(zero, zero, torch.tensor(query), keys) for query in (context_len - 2, context_len - 1)]
    return torch.stack([row.expand(context_len) for row in rows])[None, None]


AttentionInterface.register(_PLAIN, _record)
AttentionInterface.register(_FAR, _record)
AttentionMaskInterface.register(_PLAIN, ALL_MASK_ATTENTION_FUNCTIONS["eager"])
AttentionMaskInterface.register(_FAR, _far_mask)


def _describe(
    module: nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: Any, kwargs: dict[str, Any]
) -> AttentionLayer:
    if extra := [name for name in _CANNOT if kwargs.get(name) is not None]:
        raise ModelError(f"its attention takes {', '.join(extra)}, which our attention does not compute")
    if not query.shape[-1] == key.shape[-1] == value.shape[-1]:
        raise ModelError(f"its keys have {key.shape[-1]} dimensions and its values {value.shape[-1]}; they must agree")
    window = kwargs.get("sliding_window")
    if isinstance(mask, torch.Tensor) and mask.dtype == torch.bool and mask.shape[:3] == (1, 1, 2):
        window = _window(mask[0, 0])
    spec = AttentionSpec(
        scale=kwargs.get("scaling") or query.shape[-1] ** -0.5, window=window, softcap=kwargs.get("softcap") or 0.0
    )
    return AttentionLayer(module, getattr(module, "layer_idx", -1), spec, key.shape[1], key.shape[-1])


def _window(rows: torch.Tensor) -> int | None:
    """rows: (2, n) bool, the last two of a mask. How many keys a query sees, itself included; None for all."""
    context_len = rows.shape[1]
    num_seen = int(rows[1].sum())
    window = num_seen if num_seen < context_len else None
    if not torch.equal(rows, causal_mask(2, context_len, window, rows.device)):
        raise ModelError("its attention mask is neither causal nor a sliding window")
    return window
