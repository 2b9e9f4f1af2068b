"""What this machine has, as far as a model cares: processor and memory at once, GPUs, kernels and packages from a
process of its own that loads torch (machine_probe.py). No torch here.
"""

import asyncio
import json
import os
import platform
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

import psutil

import mp13
from mp13.engine.main_memory import available_memory, total_memory

_PROBE = "mp13.library.machine_probe"
_PATIENCE_S = 120
_INSTRUCTIONS = {
    "avx2": "AVX2", "avx512f": "AVX-512", "avx512_vnni": "AVX-512 VNNI", "avx512_bf16": "AVX-512 BF16",
    "amx_bf16": "AMX BF16", "asimd": "NEON", "bf16": "BF16", "i8mm": "I8MM", "sve": "SVE", "sve2": "SVE2",
}  # fmt: skip
_CPUINFO = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class Computer:
    """What is known without torch. Memory in bytes, that of the container where there is one; `cores` is None where the
    system does not tell; `instructions` are those that products of matrices can use, empty where it does not."""

    processor: str
    cores: int | None
    threads: int
    instructions: tuple[str, ...]
    memory_total: int
    memory_free: int


def computer() -> Computer:
    name, flags = _cpuinfo(_CPUINFO)
    return Computer(
        processor=name or platform.processor() or platform.machine(),
        cores=psutil.cpu_count(logical=False),
        threads=psutil.cpu_count() or 1,
        instructions=tuple(shown for flag, shown in _INSTRUCTIONS.items() if flag in flags),
        memory_total=total_memory(),
        memory_free=available_memory(),
    )


def _cpuinfo(path: Path) -> tuple[str, frozenset[str]]:
    """The processor's name and its flags, as Linux tells them; nothing elsewhere."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return "", frozenset()
    said = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in reversed(lines))}
    return said.get("model name", ""), frozenset((said.get("flags") or said.get("Features") or "").split())


@dataclass(frozen=True)
class Package:
    """`version` is empty where it cannot be imported; `reason` then says why."""

    name: str
    version: str
    reason: str = ""


@dataclass(frozen=True)
class Gpu:
    """Bytes; `free` counts what a process of torch itself takes there as taken."""

    name: str
    total: int
    free: int
    capability: str

    def usable(self, share: float) -> int:
        """The memory of a card on which nothing else runs, of which the `share` is as much as it is of this one."""
        return max(0, self.total - int((self.total - self.free) / share))


@dataclass(frozen=True)
class Kernel:
    """A way to compute something: an attention backend, a quantization. `how` says what is particular about it here;
    where it does not run, `why_not` and `fix` say why and what to do."""

    name: str
    how: str = ""
    why_not: str = ""
    fix: str = ""

    @property
    def runs(self) -> bool:
        return not self.why_not


@dataclass(frozen=True)
class Survey:
    """What torch finds. With an `error`, which is why nothing could be found out, all else is empty.

    `processor` is torch's word for the instructions that it uses. `cpu_itemsize`: bytes of a number that the CPU
    computes with where weights are bfloat16. `program_bytes`: main memory that a process takes once torch and
    Transformers are loaded. `no_gpu` says why none can be used although the driver knows one. `attention_auto` is what
    `auto` takes, with the reason.
    """

    packages: tuple[Package, ...] = ()
    processor: str = ""
    cpu_itemsize: int = 4
    program_bytes: int = 0
    gpus: tuple[Gpu, ...] = ()
    driver: str = ""
    no_gpu: str = ""
    attention: tuple[Kernel, ...] = ()
    attention_auto: str = ""
    quantization: tuple[Kernel, ...] = ()
    error: str = ""

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> Self:
        kinds = {"packages": Package, "gpus": Gpu, "attention": Kernel, "quantization": Kernel}
        parts = {name: tuple(kind(**each) for each in found[name]) for name, kind in kinds.items()}
        return cls(**{field.name: parts.get(field.name, found.get(field.name, "")) for field in fields(cls)})


@dataclass(frozen=True)
class Room:
    """The memory that a model may have, in bytes, and of what; `cpu_itemsize` as a `Survey` has it."""

    memory: int
    on_gpu: bool
    cpu_itemsize: int = 4


def room_here(computer: Computer, survey: Survey, share: float, *, on_cpu: bool = False, gpu: int = 0) -> Room:
    """What is free for a model here: of the GPU of that number, which is used up to its `share`, else of main memory,
    of which the engine's process takes its part before any model is read."""
    if survey.gpus and not on_cpu:
        return Room(survey.gpus[min(gpu, len(survey.gpus) - 1)].usable(share), on_gpu=True)
    return Room(max(0, computer.memory_free - survey.program_bytes), on_gpu=False, cpu_itemsize=survey.cpu_itemsize)


async def survey(block_size: int) -> Survey:
    """Ask torch, which takes seconds; attention is judged over blocks of `block_size` tokens. Cancelling this ends the
    process. Never raises: what went wrong is the survey's `error`."""
    package_root = str(Path(mp13.__file__).parents[1])
    path = os.pathsep.join(filter(None, (package_root, os.environ.get("PYTHONPATH"))))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", _PROBE, str(block_size),
        env={**os.environ, "PYTHONPATH": path}, stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        out, err = await asyncio.wait_for(process.communicate(), _PATIENCE_S)
        return Survey.from_json(json.loads(out))
    except TimeoutError:
        return Survey(error=f"importing torch took longer than {_PATIENCE_S} s")
    except ValueError:
        last = err.decode("utf-8", "replace").strip().rpartition("\n")[2]
        return Survey(error=last or f"the process ended with code {process.returncode}")
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
