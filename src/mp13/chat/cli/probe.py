"""Answers the doctor's questions that need torch. Run as a process of its own, so that the chat's never loads it:
`python -m mp13.chat.cli.probe BLOCK_SIZE` prints one JSON object.
"""

import json
import sys
from importlib import import_module
from typing import Any

PACKAGES = ("torch", "transformers", "peft", "safetensors")


def probe(block_size: int) -> dict[str, Any]:
    """What imports and in which version, what processor and GPUs offer, which attention backends run over blocks of
    `block_size` tokens and why not, and which is chosen."""
    packages = {name: _imported(name) for name in PACKAGES}
    found: dict[str, Any] = {
        "packages": packages, "cpu": "", "gpus": [], "attention": [], "auto": "", "quantization": [],
    }  # fmt: skip
    if packages["torch"][0]:
        torch = import_module("torch")
        found["cpu"] = f"{torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"
        if torch.cuda.is_available():
            found["gpus"] = [_gpu(torch, index) for index in range(torch.cuda.device_count())]
        found["attention"], found["auto"] = _attention(torch, block_size)
        found["quantization"] = _quantization(torch)
    return found


def _imported(name: str) -> tuple[str, str]:
    """Version and "", or "" and why it doesn't import. A broken install may raise anything."""
    try:
        return str(import_module(name).__version__), ""
    except Exception as error:
        return "", f"{type(error).__name__}: {error}"


def _gpu(torch: Any, index: int) -> dict[str, Any]:
    return {"name": torch.cuda.get_device_name(index), "memory": torch.cuda.mem_get_info(index)[1]}


def _attention(torch: Any, block_size: int) -> tuple[list[tuple[str, str | None]], str]:
    """Each backend, and why it does not run here, None if it does; then what `auto` takes and why. For a model of the
    usual kind."""
    registry = import_module("mp13.engine.attention.registry")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    need = registry.AttentionNeed(device, torch.bfloat16, head_dim=128, block_size=block_size)
    choice = registry.choose_attention("auto", need)
    return registry.available(need), f"{choice.name}, {choice.reason}"


def _quantization(torch: Any) -> list[tuple[str, str, str]]:
    """Each kind with how a layer of it is multiplied here, and why it cannot be where that is so."""
    kinds, choice = (import_module(f"mp13.engine.{name}") for name in ("quantization", "linear.quantized_choice"))
    device, layer = torch.device("cuda" if torch.cuda.is_available() else "cpu"), {"layer": (4096, 4096)}
    try:
        import_module("mp13.engine.linear.quantized_tensor").require_hqq()
    except Exception as error:  # a broken install may raise anything
        return [("hqq", "", str(error))]
    every = [kinds.Quantization(bits, group_size=64) for bits in kinds.BITS]
    notes = [choice.kernel_note(kind, layer, torch.bfloat16, device).partition(": ")[2] for kind in every]
    return [(f"hqq-{kind.bits}bit", note, "") for kind, note in zip(every, notes, strict=True)]


if __name__ == "__main__":
    json.dump(probe(int(sys.argv[1])), sys.stdout)
