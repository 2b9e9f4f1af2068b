"""Writes a plain LoRA as PEFT reads it: alpha = r everywhere, so that the tensors are the change itself."""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from mp13.engine.adapters.adapter_config import CONFIG_FILE
from mp13.engine.adapters.tensor_file import WEIGHTS_FILE
from mp13.engine.linear.delta import LinearDelta


def write_adapter(folder: Path, deltas: Mapping[str, LinearDelta], targets: Collection[str], base_model: str) -> int:
    """Write deltas without gains, made for a model whose linears are `targets`; returns the largest rank.

    Raises:
        OSError: the folder cannot be written.
    """
    ranks = {path: delta.a.shape[0] for path, delta in deltas.items()}
    rank = max(ranks.values())
    others = {path: other for path, other in sorted(ranks.items()) if other != rank}
    config: dict[str, Any] = {
        "base_model_name_or_path": base_model,
        "bias": "none",
        "inference_mode": True,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "peft_type": "LORA",
        "r": rank,
        "rank_pattern": others,
        "alpha_pattern": others,
        "target_modules": _names(deltas.keys(), targets),
        "task_type": "CAUSAL_LM",
        "use_rslora": False,
    }
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    tensors = {}
    for path, delta in deltas.items():
        tensors[f"base_model.model.{path}.lora_A.weight"] = delta.a.contiguous()
        tensors[f"base_model.model.{path}.lora_B.weight"] = delta.b.contiguous()
    save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    return rank


def _names(paths: Collection[str], targets: Collection[str]) -> list[str]:
    """Short names such as "q_proj" if they mean just these paths, else the paths."""
    names = {path.rpartition(".")[2] for path in paths}
    meant = {path for path in targets if path.rpartition(".")[2] in names}
    return sorted(names if meant == set(paths) else paths)
