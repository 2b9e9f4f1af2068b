"""Numbers of bytes as people write and read them. No torch."""

import re
from decimal import Decimal

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(B|[KMGT]i?B)?", re.IGNORECASE | re.ASCII)
_UNITS = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12,
          "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}  # fmt: skip


def parse_size(text: str) -> int:
    """Bytes of "2GiB", "500 MB" or "1048576"; 0 where it is no size."""
    match = _SIZE.fullmatch(text.strip())
    return int(Decimal(match[1]) * _UNITS[(match[2] or "B").lower()]) if match else 0


def shown_size(num_bytes: int, *, up: bool = False) -> str:
    """Such as "2.1GiB", which `parse_size` reads. Rounded down, so that what is shown to fit does fit; or `up`, so that
    what is shown to be enough is enough."""
    for unit in ("GiB", "MiB", "KiB"):
        size = _UNITS[unit.lower()]
        if num_bytes >= size:
            tenths = -(-num_bytes * 10 // size) if up else num_bytes * 10 // size
            return f"{tenths / 10:.1f}{unit}"
    return f"{max(0, num_bytes)}B"
