"""How much main memory can be taken here, in a container too. No torch."""

import ctypes
from contextlib import suppress
from pathlib import Path

import psutil

_CGROUPS = (("memory.max", "memory.current", "inactive_file"),
            ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"))  # fmt: skip


def available_memory() -> int:
    """Bytes that can be taken without swapping, or being ended for it."""
    return min(psutil.virtual_memory().available, _left_in_container())


def give_back() -> None:
    """Let the system have the pieces of freed memory that the C library keeps for later, where that is glibc."""
    with suppress(AttributeError, OSError, TypeError):  # another C library, which has no such call
        ctypes.CDLL(None).malloc_trim(0)


def total_memory() -> int:
    """Bytes that this machine, or its container, has."""
    return min(psutil.virtual_memory().total, _limit_of_container())


def _limit_of_container(root: Path = Path("/sys/fs/cgroup")) -> int:
    for limit, _, _ in _CGROUPS:
        try:
            return int((root / limit).read_text())
        except (OSError, ValueError):  # no such file, or "max"
            continue
    return 2**63


def _left_in_container(root: Path = Path("/sys/fs/cgroup")) -> int:
    """What the limit of this control group leaves; pages of files count as free, as they are given back."""
    for limit, usage, cached in _CGROUPS:
        try:
            text = (root / limit).read_text().strip()
            if text == "max":
                break
            used = int((root / usage).read_text())
            stat = dict(line.split() for line in (root / limit).with_name("memory.stat").read_text().splitlines())
            return max(0, int(text) - used + int(stat.get(cached, 0)))
        except (OSError, ValueError):
            continue
    return 2**63
