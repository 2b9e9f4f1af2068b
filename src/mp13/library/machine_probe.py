"""Answers machine.py's questions that need torch. Run as a process of its own, so that the chat's never loads it:
`python -m mp13.library.machine_probe BLOCK_SIZE` prints one JSON object with the fields of `Survey`.
"""

import json
import os
import shutil
import subprocess
import sys
from importlib import import_module
from typing import Any

import psutil

PACKAGES = ("torch", "transformers", "peft", "safetensors")
_DRIVER_S = 10


def probe(block_size: int) -> dict[str, Any]:
    """What imports and in which version, what processor and GPUs offer, which attention backends run over blocks of
    `block_size` tokens and why not, and which is chosen."""
    packages = [_imported(name) for name in PACKAGES]
    found: dict[str, Any] = {"packages": packages, "gpus": [], "attention": [], "quantization": []}
    if not packages[0]["version"]:
        return found
    torch = import_module("torch")
    found["program_bytes"] = psutil.Process().memory_info().rss
    found["processor"] = f"{torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"
    found["cpu_itemsize"] = 4 if _packs(torch) else 2
    found["driver"], cards = _driver()
    if torch.cuda.is_available():
        found["gpus"] = [_gpu(torch, index) for index in range(torch.cuda.device_count())]
    elif cards:
        found["no_gpu"] = _why_no_gpu(torch, cards)
    found["attention"], found["attention_auto"] = _attention(torch, block_size)
    found["quantization"] = _quantization(torch)
    return found


def _imported(name: str) -> dict[str, str]:
    """A broken install may raise anything."""
    try:
        return {"name": name, "version": str(import_module(name).__version__)}
    except Exception as error:
        return {"name": name, "version": "", "reason": f"{type(error).__name__}: {error}"}


def _packs(torch: Any) -> bool:
    """Whether the CPU computes in float32 where weights are bfloat16."""
    return bool(import_module("mp13.engine.linear.base_weight").packs(torch.bfloat16, torch.device("cpu")))


def _driver() -> tuple[str, str]:
    """The version of NVIDIA's driver and the names of its cards, as its own tool tells them; empty without it."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return "", ""
    command = [tool, "--query-gpu=driver_version,name", "--format=csv,noheader"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=_DRIVER_S, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired):
        return "", ""
    if told.returncode:
        return "", ""
    rows = [line.partition(", ")[::2] for line in told.stdout.splitlines() if ", " in line]
    return (rows[0][0], "; ".join(name for _, name in rows)) if rows else ("", "")


def _why_no_gpu(torch: Any, cards: str) -> str:
    if torch.version.cuda is None:
        return f"{cards}, which this torch was not built for; INSTALL.md says which one to install"
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return f"{cards}, hidden by CUDA_VISIBLE_DEVICES; unset it"
    return f"{cards}, which torch cannot reach; its CUDA {torch.version.cuda} may be newer than the driver"


def _gpu(torch: Any, index: int) -> dict[str, Any]:
    free, total = torch.cuda.mem_get_info(index)
    capability = ".".join(map(str, torch.cuda.get_device_capability(index)))
    return {"name": torch.cuda.get_device_name(index), "total": total, "free": free, "capability": capability}


def _attention(torch: Any, block_size: int) -> tuple[list[dict[str, str]], str]:
    """Each backend; then what `auto` takes and why. For a model of the usual kind."""
    registry = import_module("mp13.engine.attention.registry")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    need = registry.AttentionNeed(device, torch.bfloat16, head_dim=128, block_size=block_size)
    choice = registry.choose_attention("auto", need)
    kernels = [_kernel(name, why_not or "") for name, why_not in registry.available(need)]
    return kernels, f"{choice.name}, {choice.reason}"


def _quantization(torch: Any) -> list[dict[str, str]]:
    """Each kind with how a layer of it is multiplied here, or why it cannot be."""
    kinds, choice = (import_module(f"mp13.engine.{name}") for name in ("quantization", "linear.quantized_choice"))
    device, layer = torch.device("cuda" if torch.cuda.is_available() else "cpu"), {"layer": (4096, 4096)}
    every = [kinds.Quantization(bits, group_size=64) for bits in kinds.BITS]
    try:
        import_module("mp13.engine.linear.quantized_tensor").require_hqq()
    except Exception as error:  # a broken install may raise anything
        return [_kernel(f"hqq-{kind.bits}bit", str(error)) for kind in every]
    notes = [choice.kernel_note(kind, layer, torch.bfloat16, device).partition(": ")[2] for kind in every]
    return [{"name": f"hqq-{kind.bits}bit", "how": note} for kind, note in zip(every, notes, strict=True)]


def _kernel(name: str, why_not: str) -> dict[str, str]:
    reason, _, fix = why_not.partition("; ")
    return {"name": name, "why_not": reason, "fix": fix}


if __name__ == "__main__":
    json.dump(probe(int(sys.argv[1])), sys.stdout)
