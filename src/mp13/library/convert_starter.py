"""Turns the starter's GGUF into a Transformers folder: `python -m mp13.library.convert_starter GGUF FOLDER`.

Needs gguf and numpy but no torch. Every byte it writes follows from the GGUF alone, so the folder has one digest
on every machine, which `starter.py` checks.
"""

import json
import re
import struct
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_TENSOR = re.compile(r"(?:blk\.(\d+)\.)?(\w+)\.weight")
_SPECIAL_TOKEN = int(gguf.TokenType.CONTROL)


def convert(source: Path, folder: Path) -> None:
    """Write model, tokenizer, chat template and configuration of the Llama-layout GGUF `source` into `folder`."""
    reader = gguf.GGUFReader(source)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    config = model_config(fields)
    _write(folder / "config.json", config)
    _write(folder / "generation_config.json", {key: config[key] for key in _TOKEN_IDS})
    _write(folder / "tokenizer.json", tokenizer(fields), indent=None)
    _write(folder / "tokenizer_config.json", tokenizer_config(fields))
    with open(folder / "model.safetensors", "wb") as file:
        file.write(safetensors_header(reader))
        for tensor in reader.tensors:
            file.write(bfloat16_bits(dense(tensor, config)).tobytes())


def safetensors_header(reader: gguf.GGUFReader) -> bytes:
    """Names, shapes and byte ranges of the tensors in the reader's order: length (uint64), then padded JSON."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    start = 0
    for tensor in reader.tensors:
        end = start + 2 * int(tensor.n_elements)
        shape = [int(size) for size in reversed(tensor.shape)]
        header[transformers_name(tensor.name)] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}
        start = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def transformers_name(name: str) -> str:
    match = _TENSOR.fullmatch(name)
    if match is None or match[2] not in _NAMES:
        raise ValueError(f"no place for the tensor {name!r} in a Llama-layout model")
    prefix = f"model.layers.{match[1]}." if match[1] else ""
    return f"{prefix}{_NAMES[match[2]]}.weight"


def dense(tensor: gguf.ReaderTensor, config: dict[str, Any]) -> Array:
    """A tensor in float32; linears are (out_features, in_features)."""
    weight: Array = gguf.dequantize(tensor.data, tensor.tensor_type)
    if ".attn_q." in tensor.name:
        return half_split_rotary(weight, config["num_attention_heads"])
    if ".attn_k." in tensor.name:
        return half_split_rotary(weight, config["num_key_value_heads"])
    return weight


def half_split_rotary(weight: Array, num_heads: int) -> Array:
    """Rows of a query or key projection, from GGUF's interleaved rotary pairs to Transformers' two halves."""
    rows, width = weight.shape
    pairs = weight.reshape(num_heads, rows // num_heads // 2, 2, width)  # (heads, head_dim / 2, 2, hidden)
    return pairs.swapaxes(1, 2).reshape(rows, width)


def bfloat16_bits(values: Array) -> Array:
    """Float32 rounded to the nearest bfloat16 (ties to even), as uint16 bits. Expects no NaN."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")


_TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")


def model_config(fields: dict[str, Any]) -> dict[str, Any]:
    """config.json. `rope_theta` and `torch_dtype` are the spellings that Transformers 4 and 5 both read."""
    heads = fields["llama.attention.head_count"]
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": fields["llama.vocab_size"],
        "hidden_size": fields["llama.embedding_length"],
        "intermediate_size": fields["llama.feed_forward_length"],
        "num_hidden_layers": fields["llama.block_count"],
        "num_attention_heads": heads,
        "num_key_value_heads": fields["llama.attention.head_count_kv"],
        "head_dim": fields["llama.embedding_length"] // heads,
        "max_position_embeddings": fields["llama.context_length"],
        "rope_theta": fields["llama.rope.freq_base"],
        "rms_norm_eps": float(f"{fields['llama.attention.layer_norm_rms_epsilon']:.6g}"),  # 1e-05, kept as float32
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "bos_token_id": fields["tokenizer.ggml.bos_token_id"],
        "eos_token_id": fields["tokenizer.ggml.eos_token_id"],
        "pad_token_id": fields["tokenizer.ggml.padding_token_id"],
        "torch_dtype": "bfloat16",
    }


def tokenizer(fields: dict[str, Any]) -> dict[str, Any]:
    """tokenizer.json of GGUF's "smollm" pre-tokenizer: byte-level BPE over text whose digits stand alone."""
    if fields["tokenizer.ggml.pre"] != "smollm":
        raise ValueError(f"the tokenizer is {fields['tokenizer.ggml.pre']!r}, not 'smollm'")
    tokens, kinds = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    digits = {"type": "Digits", "individual_digits": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_special(i, tokens[i]) for i, kind in enumerate(kinds) if kind == _SPECIAL_TOKEN],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [digits, byte_level]},
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: i for i, token in enumerate(tokens)},
            "merges": fields["tokenizer.ggml.merges"],
        },
    }


def _special(token_id: int, text: str) -> dict[str, Any]:
    shape = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {"id": token_id, "content": text, **shape}


def tokenizer_config(fields: dict[str, Any]) -> dict[str, Any]:
    tokens = fields["tokenizer.ggml.tokens"]
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": tokens[fields["tokenizer.ggml.bos_token_id"]],
        "eos_token": tokens[fields["tokenizer.ggml.eos_token_id"]],
        "pad_token": tokens[fields["tokenizer.ggml.padding_token_id"]],
        "unk_token": tokens[fields["tokenizer.ggml.unknown_token_id"]],
        "model_max_length": fields["llama.context_length"],
        "clean_up_tokenization_spaces": False,
        "chat_template": fields["tokenizer.chat_template"],
    }


def _write(path: Path, content: dict[str, Any], indent: int | None = 2) -> None:
    path.write_bytes((json.dumps(content, indent=indent, ensure_ascii=False) + "\n").encode())


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
