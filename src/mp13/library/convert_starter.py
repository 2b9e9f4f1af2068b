"""Turns the starter's GGUF into a Transformers folder: `python -m mp13.library.convert_starter GGUF FOLDER`.

Needs gguf and numpy but no torch. Every byte it writes follows from the GGUF alone, so the folder has one digest
on every machine, which `starter.py` checks.
"""

import json
import math
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np

from mp13.engine.models.gguf_config import num_rotary_heads, rotary_order, tensors_by_name
from mp13.engine.models.gguf_file import Array, GGUFFile, GGUFTensor
from mp13.engine.models.gguf_folder import write_settings


def convert(source: Path, folder: Path) -> None:
    """Write model, tokenizer, chat template and configuration of the Llama-layout GGUF `source` into `folder`."""
    file = GGUFFile(source)
    config = write_settings(file, folder)
    tensors = tensors_by_name(file)
    with open(folder / "model.safetensors", "wb") as target:
        target.write(safetensors_header(tensors))
        for name, tensor in tensors.items():
            heads = num_rotary_heads(config, name)
            rows = slice(None) if heads is None else rotary_order(heads, tensor.shape[0])
            target.write(bfloat16_bits(file.dense(tensor, rows)).tobytes())


def safetensors_header(tensors: dict[str, GGUFTensor]) -> bytes:
    """Names, shapes and byte ranges of the tensors in their order: length (uint64), then padded JSON."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    start = 0
    for name, tensor in tensors.items():
        end = start + 2 * math.prod(tensor.shape)
        header[name] = {"dtype": "BF16", "shape": list(tensor.shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def bfloat16_bits(values: Array) -> Array:
    """Float32 rounded to the nearest bfloat16 (ties to even), as uint16 bits. Expects no NaN."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
