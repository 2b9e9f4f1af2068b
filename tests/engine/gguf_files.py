"""Tiny models as GGUF files, written by gguf's own writer the way that llama.cpp's converter does."""

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType, TokenType
from safetensors.numpy import load_file, save_file

_NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip
_WHOLE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
F32 = GGMLQuantizationType.F32


def gguf_name(name: str) -> str:
    """ "model.layers.3.mlp.up_proj.weight" -> "blk.3.ffn_up.weight" """
    module, _, what = name.rpartition(".")
    if module in _WHOLE:
        return f"{_WHOLE[module]}.{what}"
    _, _, layer, rest = module.split(".", 3)
    return f"blk.{layer}.{_NAMES[rest]}.{what}"


def quantized(weight: np.ndarray, kind: GGMLQuantizationType) -> GGMLQuantizationType:
    """What a converter makes of the tensor: vectors stay in float32."""
    return F32 if weight.ndim == 1 else kind


def dequantized_copy(model: Path, folder: Path, kind: GGMLQuantizationType) -> Path:
    """The safetensors model `model` with the weights that it would have after quantization as `kind`."""
    folder.mkdir()
    for file in model.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    weights = load_file(model / "model.safetensors")
    for name, weight in weights.items():
        as_kind = quantized(weight, kind)
        weights[name] = gguf.dequantize(gguf.quantize(weight, as_kind), as_kind)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def write_gguf(path: Path, model: Path, kind: GGMLQuantizationType = F32, **metadata: Any) -> Path:
    """Write the safetensors model in the folder `model`. `metadata` are further fields, or others in place of its own:
    text, whole numbers, floats and lists of them; None leaves a field out."""
    config = json.loads((model / "config.json").read_text())
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    arch = config["model_type"]
    rope = config.get("rope_parameters") or {  # Transformers 4 has two fields in its place
        "rope_theta": config.get("rope_theta", 10000.0), **(config.get("rope_scaling") or {})
    }  # fmt: skip
    fields: dict[str, Any] = {
        f"{arch}.block_count": config["num_hidden_layers"],
        f"{arch}.context_length": config["max_position_embeddings"],
        f"{arch}.embedding_length": config["hidden_size"],
        f"{arch}.feed_forward_length": config["intermediate_size"],
        f"{arch}.attention.head_count": heads,
        f"{arch}.attention.head_count_kv": kv_heads,
        f"{arch}.attention.key_length": head_dim,
        f"{arch}.attention.value_length": head_dim,
        f"{arch}.attention.layer_norm_rms_epsilon": config["rms_norm_eps"],
        f"{arch}.rope.freq_base": float(rope["rope_theta"]),
        **_tokenizer_fields(model),
    }
    fields |= metadata
    writer = gguf.GGUFWriter(path, fields.pop("general.architecture", arch))
    for name, value in fields.items():
        _add(writer, name, value)
    for name, weight in load_file(model / "model.safetensors").items():
        if arch == "llama" and (".q_proj." in name or ".k_proj." in name):
            weight = _interleaved(weight, heads if ".q_proj." in name else kv_heads)
        as_kind = quantized(weight, kind)
        writer.add_tensor(gguf_name(name), gguf.quantize(weight, as_kind), raw_dtype=as_kind)
    if rope.get("rope_type") == "llama3":
        writer.add_tensor("rope_freqs.weight", _llama3_factors(rope, head_dim))
    finish(writer)
    return path


def finish(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add(writer: gguf.GGUFWriter, name: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(name, value)
    elif isinstance(value, str):
        writer.add_string(name, value)
    elif isinstance(value, int):
        writer.add_uint32(name, value)
    elif isinstance(value, float):
        writer.add_float32(name, value)
    elif value is not None:
        writer.add_array(name, value)


def _tokenizer_fields(model: Path) -> dict[str, Any]:
    data = json.loads((model / "tokenizer.json").read_text())
    settings = json.loads((model / "tokenizer_config.json").read_text())
    template = model / "chat_template.jinja"
    added = {token["id"]: token for token in data["added_tokens"]}
    ids = {**data["model"]["vocab"], **{token["content"]: i for i, token in added.items()}}
    tokens = sorted(ids, key=ids.__getitem__)
    kinds = [
        TokenType.NORMAL if i not in added else TokenType.CONTROL if added[i]["special"] else TokenType.USER_DEFINED
        for i in range(len(tokens))
    ]
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in data["model"]["merges"]]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [int(kind) for kind in kinds],
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.eos_token_id": ids[settings["eos_token"]],
        "tokenizer.ggml.padding_token_id": ids[settings["pad_token"]],
        "tokenizer.chat_template": template.read_text() if template.exists() else settings["chat_template"],
    }


def _interleaved(weight: np.ndarray, heads: int) -> np.ndarray:
    halves = weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(weight.shape))


def _llama3_factors(rope: dict[str, Any], head_dim: int) -> np.ndarray:
    """As the converter writes them, which knows wavelengths."""
    low, high, original = rope["low_freq_factor"], rope["high_freq_factor"], rope["original_max_position_embeddings"]
    factors = []
    for i in range(0, head_dim, 2):
        wavelength = 2 * np.pi * rope["rope_theta"] ** (i / head_dim)
        smooth = (original / wavelength - low) / (high - low)
        factors.append(1 / (min(max(smooth, 0), 1) + (1 - min(max(smooth, 0), 1)) / rope["factor"]))
    return np.array(factors, np.float32)
