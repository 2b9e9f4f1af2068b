"""The numbers that make one Llama-layout model differ from another, read from its Hugging Face configuration."""

from dataclasses import dataclass
from typing import Any

from mp13.engine.models.rope import ROPE_TYPES, RopeConfig, rope_config
from mp13.engine.quantization import STORED_METHOD

NATIVE_MODEL_TYPES = ("llama", "mistral", "ministral3", "qwen2", "qwen3")  # SmolLM and SmolLM2 are "llama"
_TEXT_TOWERS = ("mistral3",)  # models of text and images of which the native decoder runs the text alone


@dataclass(frozen=True)
class DecoderConfig:
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    norm_eps: float
    rope: RopeConfig
    windows: tuple[int | None, ...]  # a layer's sliding window in tokens, or None
    tie_embeddings: bool
    qkv_bias: bool
    output_bias: bool
    mlp_bias: bool
    qk_norm: bool


def rope_parameters(config: Any) -> dict[str, Any]:
    """Rotary parameters under one name: Transformers 5 has `rope_parameters`, 4 has `rope_scaling` and `rope_theta`."""
    parameters = dict(getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {})
    parameters.setdefault("rope_type", parameters.get("type", "default"))
    if parameters.get("rope_theta") is None:
        parameters["rope_theta"] = getattr(config, "rope_theta", None) or 10000.0
    if parameters["rope_type"] == "yarn":  # filled in by Transformers 5
        parameters.setdefault("original_max_position_embeddings", config.max_position_embeddings)
    return parameters


def text_tower(config: Any) -> Any:
    """The configuration of what the native decoder would run of a model."""
    return config.get_text_config() if config.model_type in _TEXT_TOWERS else config


def packed_by(config: Any) -> str | None:
    """The method that the checkpoint says it is quantized by, such as "fp8" or "gptq"."""
    quantization = getattr(config, "quantization_config", None) or {}
    return quantization.get("quant_method") if isinstance(quantization, dict) else str(quantization.quant_method)


def why_not_native(config: Any) -> str | None:
    """The reason why the native decoder cannot run this configuration, or None when it can."""
    if (method := packed_by(config)) not in (None, "fp8", STORED_METHOD):
        return f"its weights are quantized by {method!r}"
    config = text_tower(config)
    if config.model_type not in NATIVE_MODEL_TYPES:
        return f"model type {config.model_type!r} is not one of {', '.join(NATIVE_MODEL_TYPES)}"
    if (activation := getattr(config, "hidden_act", "silu")) not in ("silu", "swish"):
        return f"activation {activation!r} is not silu"
    if (rope_type := rope_parameters(config)["rope_type"]) not in ROPE_TYPES:
        return f"rotary embedding of type {rope_type!r} is not one of {', '.join(ROPE_TYPES)}"
    if rope_parameters(config).get("partial_rotary_factor", 1.0) != 1.0:
        return "the rotary embedding covers a part of each head only"
    return _why_not_yarn(config)


def _why_not_yarn(config: Any) -> str | None:
    """Transformers 4 stretches by the quotient of two lengths where a configuration has both, whatever it has for
    `factor`, and knows nothing of `truncate`."""
    said, own = getattr(config, "rope_scaling", None) or {}, rope_parameters(config)
    if hasattr(config, "rope_parameters") or own["rope_type"] != "yarn":
        return None
    if not said.get("truncate", True):
        return "Transformers 4 does not know `truncate` of a YaRN embedding"
    factor = config.max_position_embeddings / own["original_max_position_embeddings"]
    if "original_max_position_embeddings" not in said or factor == said["factor"]:
        return None
    return f"Transformers 4 stretches its YaRN embedding by {factor:g}, although it says {said['factor']:g}"


def decoder_config(config: Any, *, has_head: bool | None = None) -> DecoderConfig:
    """Translate a Hugging Face configuration for which `why_not_native` is None.

    `has_head`: whether the checkpoint has a head, where a model of text and images may contradict its text's own word.
    """
    is_text, config = config.model_type not in _TEXT_TOWERS, text_tower(config)
    kind = config.model_type
    rope = rope_parameters(config)
    attention_bias = bool(getattr(config, "attention_bias", False))
    return DecoderConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_layers=config.num_hidden_layers,
        num_heads=config.num_attention_heads,
        num_kv_heads=config.num_key_value_heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
        norm_eps=config.rms_norm_eps,
        rope=rope_config(rope),
        windows=_windows(config),
        tie_embeddings=config.tie_word_embeddings if is_text or has_head is None else not has_head,
        qkv_bias=kind == "qwen2" or (kind in ("llama", "qwen3") and attention_bias),
        output_bias=kind in ("llama", "qwen3") and attention_bias,
        mlp_bias=kind == "llama" and bool(getattr(config, "mlp_bias", False)),
        qk_norm=kind == "qwen3",
    )


def _windows(config: Any) -> tuple[int | None, ...]:
    window = getattr(config, "sliding_window", None)
    if config.model_type.startswith("qwen") and not getattr(config, "use_sliding_window", False):
        window = None
    kinds = getattr(config, "layer_types", None)
    if kinds is None:
        return (window,) * config.num_hidden_layers
    return tuple(window if kind == "sliding_attention" else None for kind in kinds)
