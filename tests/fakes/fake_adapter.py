"""Adapter folders that look like PEFT's to whoever reads only configurations and headers."""

import json
import struct
from pathlib import Path

from mp13.library.paths import adapters_dir

_MODULE = "base_model.model.model.layers.0.self_attn.q_proj"


def make_adapter(
    name: str,
    content: str = "weights",
    folder: Path | None = None,
    peft_type: str = "LORA",
    rank: int = 8,
    **config: object,
) -> Path:
    """An adapter `name` in `folder`, by default the data folder's. Its tensors are 0; `content` is in its header."""
    path = (folder or adapters_dir()) / name
    path.mkdir(parents=True, exist_ok=True)
    fields = {"peft_type": peft_type, "r": rank, "lora_alpha": 16, "target_modules": ["q_proj"], **config}
    (path / "adapter_config.json").write_text(json.dumps(fields))
    tensors = {f"{_MODULE}.lora_A.weight": [rank, 2], f"{_MODULE}.lora_B.weight": [2, rank]}
    header, end = {"__metadata__": {"content": content}}, 0
    for key, shape in tensors.items():
        end += 2 * rank * 4
        header[key] = {"dtype": "F32", "shape": shape, "data_offsets": [end - 2 * rank * 4, end]}  # type: ignore[dict-item]
    text = json.dumps(header).encode()
    (path / "adapter_model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(end))
    return path
