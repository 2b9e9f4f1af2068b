"""Adapter folders that look like PEFT's to whoever reads only configurations and headers."""

import json
import struct
from pathlib import Path

from mp13.library.paths import adapters_dir


def make_adapter(name: str, content: str = "weights", folder: Path | None = None, peft_type: str = "LORA") -> Path:
    """An adapter `name` in `folder`, by default the data folder's. It has no tensors; `content` is in its header."""
    path = (folder or adapters_dir()) / name
    path.mkdir(parents=True, exist_ok=True)
    fields = {"peft_type": peft_type, "r": 8, "lora_alpha": 16, "target_modules": ["q_proj"]}
    (path / "adapter_config.json").write_text(json.dumps(fields))
    header = json.dumps({"__metadata__": {"content": content}}).encode()
    (path / "adapter_model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    return path
