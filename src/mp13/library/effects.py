"""What adapters were found to do to a base: the effects that the engine measured, kept for lists between its runs."""

import json
import math
import os
import tempfile
from pathlib import Path

from filelock import FileLock, Timeout

from mp13.library.paths import data_dir

_MOST = 2000  # adapters that are remembered; the longest unmeasured go first
_LOCK_S = 2.0


def remember_effect(adapter_digest: str, base: str, effect: float) -> None:
    """Keep the mean KL(adapter ‖ base), in nats, that was measured on `base` (a digest or a model's name).

    What cannot be written is not remembered; nothing else comes of it.
    """
    if not math.isfinite(effect):
        return
    place = _place()
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(place.with_name(f".{place.name}.lock"), timeout=_LOCK_S):
            kept = _read()
            of_adapter = kept.pop(adapter_digest, {})
            of_adapter.pop(base, None)
            kept[adapter_digest] = {**of_adapter, base: effect}
            _write(place, dict(list(kept.items())[-_MOST:]))
    except (OSError, Timeout):
        return


def known_effects(base: str | None = None) -> dict[str, float]:
    """Effects by adapter digest, on `base`; without one, on the base where it was measured last."""
    found = {}
    for digest, effects in _read().items():
        effect = effects.get(base) if base is not None else next(reversed(effects.values()), None)
        if effect is not None:
            found[digest] = effect
    return found


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
