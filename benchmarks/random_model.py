"""Models of a known shape with random weights, written in the time that the disk takes: one block of random numbers is
repeated. Each has a tokenizer of a few words.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy
from tokenizers import Tokenizer, models
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedTokenizerFast

from mp13.engine.models.footprint import llama_tensors

LLAMA_8B: dict[str, Any] = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 4096, "intermediate_size": 14336,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128,
    "vocab_size": 128256, "max_position_embeddings": 131072, "rms_norm_eps": 1e-5, "rope_theta": 500000.0,
    "hidden_act": "silu", "tie_word_embeddings": False, "torch_dtype": "bfloat16", "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
LLAMA_1B: dict[str, Any] = LLAMA_8B | {
    "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "head_dim": 64,
    "tie_word_embeddings": True,
}  # fmt: skip
QWEN_HALF_B: dict[str, Any] = LLAMA_8B | {
    "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14,
    "num_key_value_heads": 2, "head_dim": 64, "vocab_size": 151936, "max_position_embeddings": 32768,
    "tie_word_embeddings": True,
}  # fmt: skip
SMOLLM2: dict[str, Any] = LLAMA_8B | {
    "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
    "num_key_value_heads": 3, "head_dim": 64, "vocab_size": 49152, "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
}  # fmt: skip
SHAPES = {"llama-8b": LLAMA_8B, "llama-1b": LLAMA_1B, "qwen-0.5b": QWEN_HALF_B, "smollm2": SMOLLM2}
_TEMPLATE = "{% for message in messages %}{{ message.content }} {% endfor %}"
_BLOCK = 1 << 25  # numbers; 64 MiB


def write_model(folder: Path, config: Mapping[str, Any]) -> Path:
    """A Llama-layout model in bfloat16 of this config.json; returns `folder`."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(dict(config)))
    words = [*(f"<{number}>" for number in range(8)), *"abcdefgh"]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<0>"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<2>", pad_token="<2>", unk_token="<0>", chat_template=_TEMPLATE
    ).save_pretrained(folder)
    tensors = llama_tensors(config)
    if config["tie_word_embeddings"]:
        del tensors["lm_head.weight"]
    header, offset = {}, 0
    for name, shape in tensors.items():
        end = offset + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    noise = _bfloat16(numpy.random.default_rng(0).standard_normal(_BLOCK, dtype=numpy.float32) * 0.02)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for shape in tensors.values():
            _write(file, noise if len(shape) > 1 else _bfloat16(numpy.ones(shape, numpy.float32)), math.prod(shape))
    return folder


def _bfloat16(values: "numpy.ndarray[Any, numpy.dtype[numpy.float32]]") -> bytes:
    """The upper halves of float32 numbers."""
    return (values.view(numpy.uint32) >> 16).astype(numpy.uint16).tobytes()


def _write(file: BinaryIO, block: bytes, count: int) -> None:
    left = 2 * count
    while left > 0:
        left -= file.write(block[:left] if left < len(block) else block)
