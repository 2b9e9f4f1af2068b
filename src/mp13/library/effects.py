"""What adapters were found to do to a base: the effects that the engine measured, kept for lists between its runs."""

import json
import math
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from filelock import FileLock, Timeout

from mp13.library.paths import data_dir

_MOST = 2000  # adapters that are remembered; the longest unmeasured go first
_LOCK_S = 2.0


def remember_effects(base: str, effects: Mapping[str, float]) -> None:
    """Keep the mean KL(adapter ‖ base), in nats, of adapters on `base`; both by digest.

    What cannot be written is not remembered; nothing else comes of it.
    """
    place = _place()
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(place.with_name(f".{place.name}.lock"), timeout=_LOCK_S):
            kept = _read()
            for digest, effect in effects.items():
                if math.isfinite(effect):
                    kept[digest] = {**kept.pop(digest, {}), base: effect}
            _write(place, dict(list(kept.items())[-_MOST:]))
    except (OSError, Timeout):
        return


def known_effects(base: str) -> dict[str, float]:
    """Effects by adapter digest, on `base`."""
    return {digest: effects[base] for digest, effects in _read().items() if base in effects}


def _place() -> Path:
    return data_dir() / "effects.json"


def _read() -> dict[str, dict[str, float]]:
    """What is remembered; of a damaged file, what can still be made out."""
    try:
        content = json.loads(_place().read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(content, dict):
        return {}
    tables = {digest: effects for digest, effects in content.items() if isinstance(effects, dict)}
    return {
        digest: {base: float(effect) for base, effect in effects.items() if isinstance(effect, int | float)}
        for digest, effects in tables.items()
    }


def _write(place: Path, content: dict[str, dict[str, float]]) -> None:
    with tempfile.NamedTemporaryFile("w", dir=place.parent, prefix=".", delete=False, encoding="utf-8") as file:
        json.dump(content, file)
    os.replace(file.name, place)
