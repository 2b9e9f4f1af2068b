"""The trained adapter as PEFT saves one: tensors by PEFT's names, and adapter_config.json."""

import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from mp13.engine.adapters.adapter_config import CONFIG_FILE
from mp13.engine.adapters.module_choice import ModuleChoice
from mp13.engine.adapters.tensor_file import WEIGHTS_FILE
from mp13.engine.training.adapter import TrainableAdapter
from mp13.errors import TrainingError

_PREFIX = "base_model.model."


def save_adapter(folder: Path, adapter: TrainableAdapter, base_model: str) -> None:
    """Write both files, float32. With PiSSA it is a LoRA of twice the rank, which needs no other base weights: what was
    trained, less what it began with (Meng et al. 2024, appendix C). Raises OSError."""
    save_file(peft_tensors(adapter), folder / WEIGHTS_FILE, metadata={"format": "pt"})
    text = json.dumps(_peft_config(adapter, base_model), indent=2) + "\n"
    (folder / CONFIG_FILE).write_text(text, encoding="utf-8")


@torch.no_grad()
def load_weights(folder: Path, adapter: TrainableAdapter) -> None:
    """Put the numbers that `save_adapter` wrote into the adapter.

    Raises:
        TrainingError: the folder holds no adapter of this shape.
    """
    try:
        found = load_file(folder / WEIGHTS_FILE)
    except Exception as error:  # safetensors has errors of its own
        raise TrainingError(
            f"{folder / WEIGHTS_FILE} cannot be read ({error}); go on from another checkpoint"
        ) from None
    wanted = peft_tensors(adapter)
    if {key: t.shape for key, t in found.items()} != {key: t.shape for key, t in wanted.items()}:
        raise TrainingError(f"{folder / WEIGHTS_FILE} does not fit this model and these settings; train anew")
    for path, own in adapter.tensors.items():
        key, rank = _PREFIX + path, own.a.shape[0]
        a, b = found[f"{key}.lora_A.weight"], found[f"{key}.lora_B.weight"]
        own.a.copy_(a[:rank])
        own.b.copy_(b[:, :rank])
        if own.frozen_a is not None and own.frozen_b is not None:
            own.frozen_a.copy_(a[rank:])
            own.frozen_b.copy_(b[:, rank:])
        if own.magnitude is not None:
            own.magnitude.copy_(found[f"{key}.lora_magnitude_vector"])
    adapter.weights_changed()


def peft_tensors(adapter: TrainableAdapter) -> dict[str, torch.Tensor]:
    """By PEFT's names, on the CPU, sharing memory with nothing."""
    tensors: dict[str, torch.Tensor] = {}
    for path, own in adapter.tensors.items():
        a, b, key = own.a, own.b, _PREFIX + path
        if own.frozen_a is not None and own.frozen_b is not None:
            a, b = torch.cat([a, own.frozen_a]), torch.cat([b, own.frozen_b], 1)
        tensors[f"{key}.lora_A.weight"], tensors[f"{key}.lora_B.weight"] = a, b
        if own.magnitude is not None:
            tensors[f"{key}.lora_magnitude_vector"] = own.magnitude
    return {key: tensor.cpu().clone() for key, tensor in tensors.items()}


def _peft_config(adapter: TrainableAdapter, base_model: str) -> dict[str, Any]:
    config = adapter.config
    rank, alpha = config.rank, config.full_alpha
    if config.init != "default":
        rank, alpha = 2 * rank, alpha * (math.sqrt(2) if config.kind == "rslora" else 2)
    return {
        "base_model_name_or_path": base_model,
        "bias": "none",
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": int(alpha) if alpha == int(alpha) else alpha,
        "lora_dropout": config.dropout,
        "peft_type": "LORA",
        "r": rank,
        "target_modules": _target_modules(adapter),
        "task_type": "CAUSAL_LM",
        "use_dora": config.kind == "dora",
        "use_rslora": config.kind == "rslora",
    }


def _target_modules(adapter: TrainableAdapter) -> list[str]:
    """Names that mean just the trained modules: the last part of their paths, or the whole where that means more."""
    names = sorted({path.rpartition(".")[2] for path in adapter.tensors})
    choice = ModuleChoice(tuple(names), 1, 1.0)
    meant = {path for path in adapter.all_paths if choice.includes(path, is_head=False)}
    return names if meant == adapter.tensors.keys() else sorted(adapter.tensors)
