"""Which of the two model implementations runs a configuration, and why not the other. Reads the configuration only.

What a configuration cannot tell (does the model call our attention?) the self-check finds out after loading.
"""

from collections.abc import Iterator
from typing import Any, Literal

import torch

from mp13.engine.attention.registry import AttentionNeed
from mp13.engine.models.decoder_config import why_not_native
from mp13.errors import ModelError

ModelImpl = Literal["native", "transformers"]
_LAYER_TYPES = ("full_attention", "sliding_attention")
_LENGTH_DEPENDENT_ROPE = ("dynamic", "longrope", "su")


def choose_impl(config: Any, requested: str) -> tuple[ModelImpl, str]:
    """The implementation for `config` (a Hugging Face configuration) and the reason, for a person to read.

    Raises:
        ModelError: the requested one cannot run it, or none can.
    """
    not_native = why_not_native(config)
    if requested in ("auto", "native") and not_native is None:
        return "native", f"mp13's own decoder has the layout of {config.model_type!r}"
    if requested == "native":
        raise ModelError(f"model_impl = 'native' cannot run this model: {not_native}; choose 'auto' or 'transformers'")
    if (reason := why_not_transformers(config)) is not None:
        raise ModelError(f"model type {config.model_type!r} cannot run here: {reason}; choose another model")
    return "transformers", not_native or "chosen by the settings"


def attention_need(config: Any, device: torch.device, dtype: torch.dtype, block_size: int) -> AttentionNeed:
    """What the model of `config` asks of its attention, as far as its configuration tells."""
    text = config.get_text_config()
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return AttentionNeed(device, dtype, head_dim, block_size, softcap=needs_softcap(config))


def needs_softcap(config: Any) -> bool:
    """True when the model caps its attention scores (Gemma 2), which not every attention backend can."""
    return bool(getattr(config.get_text_config(), "attn_logit_softcapping", None))


def why_not_transformers(config: Any) -> str | None:
    """The reason, visible in its configuration, why a model cannot run through Transformers' modules; else None."""
    text = config.get_text_config()
    if getattr(config, "is_encoder_decoder", False):
        return "it is an encoder-decoder, and only decoders run here"
    if getattr(text, "kv_lora_rank", None):
        return "its multi-head latent attention (kv_lora_rank) needs a cache of another shape"
    if odd := sorted(set(getattr(text, "layer_types", None) or ()) - set(_LAYER_TYPES)):
        return f"its layers of type {', '.join(map(repr, odd))} need more than a cache of keys and values"
    for rope_type in _rope_types(text):
        if rope_type in _LENGTH_DEPENDENT_ROPE:
            return (
                f"its rotary embedding of type {rope_type!r} changes with the length of the text, so that cached keys "
                "would not fit later ones"
            )
    return None


def _rope_types(config: Any) -> Iterator[str]:
    """Transformers 5 keeps `rope_parameters`, 4 `rope_scaling`; some models have one such table for each layer type."""
    for field in ("rope_parameters", "rope_scaling"):
        table = getattr(config, field, None) or {}
        for part in (table, *(value for value in table.values() if isinstance(value, dict))):
            if rope_type := part.get("rope_type", part.get("type")):
                yield rope_type
