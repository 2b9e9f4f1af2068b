"""Answers the doctor's questions that need torch. Run as a process of its own, so that the chat's never loads it:
`python -m mp13.chat.cli.probe` prints one JSON object.
"""

import json
import sys
from importlib import import_module
from typing import Any

PACKAGES = ("torch", "transformers", "peft", "safetensors")


def probe() -> dict[str, Any]:
    """What imports and in which version, what the processor and GPU offer, which attention backends run, how quantized
    weights do."""
    packages = {name: _imported(name) for name in PACKAGES}
    found: dict[str, Any] = {"packages": packages, "cpu": "", "gpus": [], "attention": []}
    if packages["torch"][0]:
        torch = import_module("torch")
        found["cpu"] = f"{torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"
        if torch.cuda.is_available():
            found["gpus"] = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        found["attention"] = _attention()
        found["quantization"] = _quantization(torch)
    return found


def _imported(name: str) -> tuple[str, str]:
    """Version and "", or "" and why it doesn't import. A broken install may raise anything."""
    try:
        return str(import_module(name).__version__), ""
    except Exception as error:
        return "", f"{type(error).__name__}: {error}"


def _attention() -> list[str]:
    config = import_module("mp13.engine.config")
    choose = import_module("mp13.engine.attention.registry").choose_attention
    running = []
    for name in config.ATTENTION_NAMES:
        try:
            config.EngineConfig(model="any", attn_implementation=name)
            running.append(choose(name, needs_softcap=False).name)
        except Exception:  # whatever keeps it from loading keeps it from running
            continue
    return sorted(set(running))


def _quantization(torch: Any) -> list[str]:
    """["ok", what to expect] or ["", why there is none]."""
    choice = import_module("mp13.engine.linear.quantized_choice")
    try:
        return ["ok", choice.machine_note(torch.device("cuda" if torch.cuda.is_available() else "cpu"))]
    except Exception as error:  # as above
        return ["", str(error)]


if __name__ == "__main__":
    json.dump(probe(), sys.stdout)
