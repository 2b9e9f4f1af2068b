"""What every CPU benchmark works on: the starter in bfloat16, random prompts, and four random LoRA adapters.

Knows no contestant and takes no time. Adapters have B ≠ 0, so that nothing can skip them.
"""

import json
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from mp13.library.starter import install_starter, starter_dir, starter_ready

NUM_ADAPTERS = 4
RANK = 16
LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def starter() -> Path:
    """The starter's folder, installed first where it is missing."""
    return starter_dir() if starter_ready() else install_starter(_print_progress)


def _print_progress(stage: str, fraction: float | None) -> None:
    if fraction in (None, 0.0):  # once a stage
        print(f"starter: {stage}", flush=True)


def write_adapters(folder: Path, model: Path, count: int = NUM_ADAPTERS) -> list[Path]:
    """`count` PEFT folders of rank `RANK` over all linears of `model`, each with random A and B."""
    with safe_open(model / "model.safetensors", framework="pt") as file:
        shapes = {
            name.removesuffix(".weight"): file.get_slice(name).get_shape()
            for name in file.keys()  # noqa: SIM118  (not a dict)
            if name.removesuffix(".weight").endswith(LINEARS)
        }
    return [_write_adapter(folder / f"adapter-{i}", model, shapes, seed=i) for i in range(count)]


def _write_adapter(folder: Path, model: Path, shapes: dict[str, list[int]], seed: int) -> Path:
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, (num_out, num_in) in shapes.items():
        prefix = f"base_model.model.{name}"
        tensors[f"{prefix}.lora_A.weight"] = torch.randn(RANK, num_in, generator=generator) / num_in**0.5
        tensors[f"{prefix}.lora_B.weight"] = torch.randn(num_out, RANK, generator=generator) * 0.01
    folder.mkdir(parents=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": str(model), "r": RANK,
        "lora_alpha": RANK, "lora_dropout": 0.0, "bias": "none", "target_modules": list(LINEARS),
        "inference_mode": True,
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


class Prompts:
    """Random token ids, never the same twice, so that no cache can know them. Special tokens are left out."""

    def __init__(self, vocab_size: int, seed: int = 0, first_id: int = 100) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        self._range = (first_id, vocab_size)

    def make(self, num_tokens: int) -> list[int]:
        return torch.randint(*self._range, (num_tokens,), generator=self._generator).tolist()
