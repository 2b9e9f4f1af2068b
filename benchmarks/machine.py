"""What a result depends on: processor, threads, versions, command, and how busy the machine was."""

import os
import platform
import shlex
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch

import mp13


def environment() -> dict[str, str]:
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "command": shlex.join(["python", *(_without_folder(word) for word in sys.argv)]),
        "processor": f"{_processor()}, {os.cpu_count()} CPUs, torch uses {torch.backends.cpu.get_cpu_capability()}",
        **({"GPU": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}),
        "threads": str(torch.get_num_threads()),
        "load at start": f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown",
        "versions": ", ".join(
            [f"mp13 {mp13.__version__}", f"Python {platform.python_version()}"]
            + [f"{package} {version(package)}" for package in ("torch", "transformers", "peft")]
        ),
    }


def _without_folder(word: str) -> str:
    """Where something lies on this machine says nothing to others."""
    return Path(word).name if Path(word).is_absolute() else word


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
