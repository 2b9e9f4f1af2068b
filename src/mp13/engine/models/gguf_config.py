"""What the metadata of a GGUF file says about its model: the Hugging Face configuration, and whose tensor is whose.

Only Llama layouts are translated. Whatever in a file this would leave out is refused by name; the errors are reasons,
to which gguf_folder.py adds the file and what to do. No torch.
"""

import math
import re
from collections.abc import Iterator
from typing import Any, NoReturn

import numpy as np
from gguf import GGMLQuantizationType

from mp13.engine.models.gguf_file import Array, GGUFFile, GGUFTensor
from mp13.engine.models.gguf_tokenizer import special_id
from mp13.errors import ModelError

_CLASSES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}
_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_TENSOR = re.compile(r"(?:blk\.(\d+)\.)?(\w+)\.(weight|bias)")
_ROPE_FACTORS = "rope_freqs.weight"  # what each rotary frequency is divided by; Llama 3.1 and later
_LLAMA3_ROPE = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
_ROPE_FIELDS = ("type", "factor", "original_context_length", "yarn_beta_fast", "yarn_beta_slow", "finetuned")


def tensors_by_name(file: GGUFFile) -> dict[str, GGUFTensor]:
    """The model's tensors by their Hugging Face names.

    Raises:
        ModelError: one of them has no place in a Llama-layout model.
    """
    return {_hugging_face_name(name): t for name, t in file.tensors.items() if name != _ROPE_FACTORS}


def gguf_shapes(file: GGUFFile) -> dict[str, tuple[int, ...]]:
    """The shapes of those tensors. Errors of `tensors_by_name`."""
    return {name: tuple(tensor.shape) for name, tensor in tensors_by_name(file).items()}


def _hugging_face_name(name: str) -> str:
    match = _TENSOR.fullmatch(name)
    if match is None or match[2] not in _NAMES:
        _refuse(f"its tensor {name[:60]!r} has no place in a Llama layout")
    prefix = f"model.layers.{match[1]}." if match[1] else ""
    return f"{prefix}{_NAMES[match[2]]}.{match[3]}"


def rotary_order(num_heads: int, num_rows: int) -> Array:
    """Which row of a Llama query or key projection in GGUF is each row of Transformers': the two dimensions that turn
    together are neighbours there, and half a head apart here."""
    pairs = np.arange(num_rows).reshape(num_heads, num_rows // num_heads // 2, 2)  # (heads, head_dim / 2, 2)
    return pairs.swapaxes(1, 2).reshape(-1)


def num_rotary_heads(config: dict[str, Any], name: str) -> int | None:
    """The heads of the tensor of this Hugging Face name if its rows lie in GGUF's rotary order, else None."""
    if config["architectures"] != ["LlamaForCausalLM"] or not (match := re.search(r"\.([qk])_proj\.", name)):
        return None
    heads: int = config["num_attention_heads" if match[1] == "q" else "num_key_value_heads"]
    return heads


def model_config(file: GGUFFile) -> dict[str, Any]:
    """config.json of the model. `rope_theta` and `torch_dtype` are the spellings that Transformers 4 and 5 both read.

    Raises:
        ModelError: the architecture is none of ours, the file says something that a configuration of ours cannot, or
            its tensors are not those of its configuration.
    """
    kind = _architecture(file)
    heads, hidden = _count(file, "attention.head_count"), _count(file, "embedding_length")
    config: dict[str, Any] = {
        "architectures": [_CLASSES[kind]],
        "model_type": kind,
        "vocab_size": _vocab_size(file),
        "hidden_size": hidden,
        "intermediate_size": _count(file, "feed_forward_length"),
        "num_hidden_layers": _count(file, "block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": _count(file, "attention.head_count_kv", heads),
        "head_dim": _head_dim(file, hidden // heads),
        "max_position_embeddings": _count(file, "context_length"),
        "rope_theta": _number(file, "rope.freq_base", 10000.0),
        "rms_norm_eps": float(f"{_number(file, 'attention.layer_norm_rms_epsilon'):.6g}"),  # 1e-05, kept as float32
        "hidden_act": "silu",
    }
    if kind == "llama":
        config["attention_bias"] = "blk.0.attn_output.bias" in file.tensors
        config["mlp_bias"] = "blk.0.ffn_down.bias" in file.tensors
    config["tie_word_embeddings"] = "output.weight" not in file.tensors
    config |= _token_ids(file.metadata)
    config["torch_dtype"] = _dtype(file)
    if scaling := _rope_scaling(file, config["head_dim"], config["rope_theta"]):
        config["rope_scaling"] = scaling
    _check_tensors(file, config)
    return config


def _token_ids(metadata: dict[str, Any]) -> dict[str, Any]:
    """Begin, end and padding, as config.json has them. An answer may end as a text, a turn or a message."""
    ends = [special_id(metadata, name) for name in ("eos", "eot", "eom")]
    ends = list(dict.fromkeys(end for end in ends if end is not None))
    ids = {
        "bos_token_id": special_id(metadata, "bos"),
        "eos_token_id": ends[0] if len(ends) == 1 else ends or None,
        "pad_token_id": special_id(metadata, "padding"),
    }
    return {name: value for name, value in ids.items() if value is not None}


def _architecture(file: GGUFFile) -> str:
    kind = file.metadata.get("general.architecture")
    if kind not in _CLASSES:
        _refuse(f"its architecture {str(kind)[:40]!r} is not one of {', '.join(_CLASSES)}")
    if (parts := file.metadata.get("split.count", 1)) not in (0, 1):
        _refuse(f"it is one of {parts} parts, which llama-gguf-split --merge joins")
    if experts := _number(file, "expert_count", 0):
        _refuse(f"it is a mixture of {experts} experts")
    if window := _number(file, "attention.sliding_window", 0):
        _refuse(f"its attention has a window of {window} tokens, which Llama layouts in GGUF do not have")
    return str(kind)


def _head_dim(file: GGUFFile, default: int) -> int:
    size = _count(file, "attention.key_length", default)
    for name in ("attention.value_length", "rope.dimension_count"):
        if (other := _count(file, name, size)) != size or size % 2:
            _refuse(f"its heads have {size} dimensions, and {name} is {other}")
    return size


def _rope_scaling(file: GGUFFile, head_dim: int, theta: float) -> dict[str, Any] | None:
    """`rope_scaling` of config.json; None for plain rotary embeddings."""
    if _ROPE_FACTORS in file.tensors:
        return _llama3_rope(file, head_dim, theta)
    start = f"{file.metadata['general.architecture']}.rope.scaling."
    said = {name.removeprefix(start): value for name, value in file.metadata.items() if name.startswith(start)}
    factor = _number(file, "rope.scaling.factor", _number(file, "rope.scale_linear", 0.0))  # the latter is its old name
    kind = said.get("type", "linear")  # as llama.cpp reads it
    if kind == "none" or not factor:
        return None
    if kind not in ("linear", "yarn"):
        _refuse(f"its rotary embedding is scaled in the way {str(kind)[:40]!r}")
    if odd := sorted(said.keys() - set(_ROPE_FIELDS)):
        _refuse(f"its rotary embedding is scaled in a way of its own ({odd[0][:40]} = {said[odd[0]]})")
    if kind == "linear":
        return {"rope_type": "linear", "factor": factor}
    return {
        "rope_type": "yarn",
        "factor": factor,
        "original_max_position_embeddings": _count(file, "rope.scaling.original_context_length"),
        "beta_fast": _number(file, "rope.scaling.yarn_beta_fast", 32.0),
        "beta_slow": _number(file, "rope.scaling.yarn_beta_slow", 1.0),
    }


def _llama3_rope(file: GGUFFile, head_dim: int, theta: float) -> dict[str, Any]:
    """The file has what became of each frequency under Llama 3's scaling, a configuration its parameters: find them."""
    factors = file.dense(file.tensors[_ROPE_FACTORS])  # (head_dim / 2,)
    factor, (low, high, original) = float(factors.max()), _LLAMA3_ROPE.values()
    turns = original * theta ** -(np.arange(0, head_dim, 2) / head_dim) / (2 * math.pi)
    keep = np.clip((turns - low) / (high - low), 0, 1)
    expected = 1 / (keep + (1 - keep) / factor)
    if factors.shape != expected.shape or not np.allclose(factors, expected, rtol=1e-4):
        _refuse(f"its rotary embedding is scaled by factors ({_ROPE_FACTORS}) that are not Llama 3's")
    return {"rope_type": "llama3", "factor": factor, **_LLAMA3_ROPE}


def _check_tensors(file: GGUFFile, config: dict[str, Any]) -> None:
    extra = tensors_by_name(file)
    for name, shape in _expected_shapes(config):
        if name not in extra:
            _refuse(f"it has no tensor for {name}, which its configuration needs")
        if (tensor := extra.pop(name)).shape != shape:
            _refuse(f"its tensor {tensor.name!r} has the shape {tensor.shape}, not {shape}")
    if extra:
        _refuse(f"its tensor {min(extra.values(), key=lambda t: t.name).name!r} has no place in its architecture")


def _expected_shapes(config: dict[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    hidden, inner, head_dim = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    q, kv = config["num_attention_heads"] * head_dim, config["num_key_value_heads"] * head_dim
    yield "model.embed_tokens.weight", (config["vocab_size"], hidden)
    yield "model.norm.weight", (hidden,)
    if not config["tie_word_embeddings"]:
        yield "lm_head.weight", (config["vocab_size"], hidden)
    linears = {
        "self_attn.q_proj": (q, hidden), "self_attn.k_proj": (kv, hidden), "self_attn.v_proj": (kv, hidden),
        "self_attn.o_proj": (hidden, q),
        "mlp.gate_proj": (inner, hidden), "mlp.up_proj": (inner, hidden), "mlp.down_proj": (hidden, inner),
    }  # fmt: skip
    vectors = {"input_layernorm.weight": hidden, "post_attention_layernorm.weight": hidden}
    if config["model_type"] == "qwen3":
        vectors |= {"self_attn.q_norm.weight": head_dim, "self_attn.k_norm.weight": head_dim}
    vectors |= {f"{name}.bias": shape[0] for name, shape in linears.items() if _has_bias(config, name)}
    for layer in range(config["num_hidden_layers"]):
        yield from ((f"model.layers.{layer}.{name}.weight", shape) for name, shape in linears.items())
        yield from ((f"model.layers.{layer}.{name}", (size,)) for name, size in vectors.items())


def _has_bias(config: dict[str, Any], name: str) -> bool:
    if config["model_type"] == "qwen2":
        return name in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
    return bool(config.get("attention_bias" if name.startswith("self_attn") else "mlp_bias"))


def _vocab_size(file: GGUFFile) -> int:
    if "token_embd.weight" not in file.tensors:
        _refuse("it has no tensor 'token_embd.weight'")
    return file.tensors["token_embd.weight"].shape[0]


def _dtype(file: GGUFFile) -> str:
    """What holds the dequantized weights: the file's own type, or bfloat16 for those that have been quantized."""
    kinds = {tensor.kind for tensor in file.tensors.values() if len(tensor.shape) > 1}
    if kinds <= {GGMLQuantizationType.F32}:
        return "float32"
    return "float16" if kinds <= {GGMLQuantizationType.F32, GGMLQuantizationType.F16} else "bfloat16"


_REQUIRED = -1


def _count(file: GGUFFile, name: str, default: int = _REQUIRED) -> int:
    value = _number(file, name, default)
    if not isinstance(value, int) or value < 1:
        _refuse(f"it says {value} for {name}, which is a whole number, 1 or more")
    return value


def _number(file: GGUFFile, name: str, default: float = _REQUIRED) -> Any:
    """A number that the metadata has for this architecture; of one for each layer, the one they all have."""
    full = f"{file.metadata['general.architecture']}.{name}"
    value = file.metadata.get(full, default)
    if isinstance(value, np.ndarray) and len(set(value.tolist())) == 1:
        value = value.tolist()[0]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        said = "nothing" if value is _REQUIRED else repr(value)[:60]
        _refuse(f"it says {said} for {full}, where one number is needed")
    return value


def _refuse(reason: str) -> NoReturn:
    raise ModelError(reason)
