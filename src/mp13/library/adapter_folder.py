"""One adapter's folder: what it holds and why it cannot work, from its configuration and the header of its weights.

The judgement is the engine's own code, as far as it needs no model; whether it fits a model is said when it is loaded.
"""

import json
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from mp13.engine.adapters.adapter_config import CONFIG_FILE, read_lora_settings, read_small_file
from mp13.engine.adapters.folder_stamp import FileStamp, file_stamp
from mp13.engine.adapters.tensor_file import WEIGHTS_FILE, Entry, open_tensor_file
from mp13.errors import AdapterError, Mp13Error
from mp13.library.notes import NOTES, Notes, read_notes
from mp13.mix import check_name

PICKLE = "adapter_model.bin"
_MARKS = (CONFIG_FILE, WEIGHTS_FILE, PICKLE)  # one of these makes a folder an adapter's
_LARGEST_CONFIG = 1 << 20  # bytes
_READ = {".json", ".jinja", ".safetensors"}  # what an engine may read of a folder
_KNOWN_FOLDERS = 4096


@dataclass(frozen=True)
class AdapterOnDisk:
    """A PEFT folder. `unfit` is None, or why no model can use it and what to do; then `rank` may be 0."""

    name: str
    path: Path
    rank: int  # the largest in it
    kind: str  # "lora", "rslora", "dora", "alora", or the peft_type that is not served, in lower case
    size_bytes: int  # of the weights
    unfit: str | None = None
    whole: bool = True  # whether the files are undamaged; what is whole and unfit may still be merged into a model
    targets: tuple[str, ...] = ()  # the names of the modules that it changes
    base_model: str | None = None  # as its training recorded it
    modified: float = 0.0  # when its configuration or weights last changed, in seconds since 1970
    notes: Notes = field(default_factory=Notes)
    digest: str | None = None  # filled by `library.adapters.with_digests`, as is the effect
    effect: float | None = None  # mean KL(adapter ‖ base) in nats, as last measured


def is_adapter(folder: Path) -> bool:
    """Whether the folder is an adapter's, sound or not."""
    return any((folder / name).exists() for name in _MARKS)


def look_at(path: Path, within: Path | None = None) -> AdapterOnDisk:
    """What the folder `path` holds. With `within`, nothing of it may be a link that leads out of there."""
    stamps = tuple(file_stamp(path / name) for name in (*_MARKS, NOTES))
    return _look_at(path, within, stamps)


@lru_cache(_KNOWN_FOLDERS)
def _look_at(path: Path, within: Path | None, stamps: tuple[FileStamp | None, ...]) -> AdapterOnDisk:
    """`stamps` make an answer true only until a file changes."""
    found: dict[str, Any] = {
        "name": path.name, "path": path, "rank": 0, "kind": "unknown", "size_bytes": stamps[1][0] if stamps[1] else 0,
        "modified": max((stamp[1] for stamp in stamps[:2] if stamp), default=0) / 1e9, "whole": False,
    }  # fmt: skip
    try:
        if within is not None:
            _check_links(path, within.resolve())
        config = _config(path)
        found |= _recorded(config)
        found |= _in_header(path)
        found["notes"] = read_notes(path)
        found["whole"] = isinstance(config.get("peft_type"), str)
        check_name(path.name)
        settings, _ = read_lora_settings(path, path.name)
        found["kind"] = settings.kind
    except Mp13Error as error:
        found["unfit"] = str(error).removeprefix(f"{path / CONFIG_FILE}: ")
    except OSError as error:
        found["unfit"] = f"{path} cannot be read ({error.strerror or error}); check its permissions"
    return AdapterOnDisk(**found)


def _check_links(path: Path, within: Path) -> None:
    for part in (path, *(file for file in path.iterdir() if file.suffix in _READ)):
        if not part.resolve().is_relative_to(within):
            raise AdapterError(f"{part} is a link that leads out of {within}; copy the adapter into it")


def _config(path: Path) -> dict[str, Any]:
    """The configuration, whatever it asks for.

    Raises:
        AdapterError: it is missing or no JSON object.
    """
    if not (path / CONFIG_FILE).exists():
        raise AdapterError(f"{CONFIG_FILE} is missing; copy the whole PEFT folder")
    try:
        config = json.loads(read_small_file(path / CONFIG_FILE, _LARGEST_CONFIG))
    except (ValueError, RecursionError) as error:
        raise AdapterError(f"{CONFIG_FILE} is not JSON ({error}); export the adapter again with PEFT") from None
    if not isinstance(config, dict):
        raise AdapterError(f"{CONFIG_FILE} is not a JSON object; export the adapter again with PEFT")
    return config


def _recorded(config: dict[str, Any]) -> dict[str, Any]:
    """What a configuration says of itself; a damaged field says nothing."""
    rank, base, targets = (config.get(key) for key in ("r", "base_model_name_or_path", "target_modules"))
    names = targets if isinstance(targets, list) else []
    return {
        "kind": str(config.get("peft_type", "unknown")).lower()[:40],
        "rank": rank if type(rank) is int and rank > 0 else 0,
        "base_model": base if isinstance(base, str) and base else None,
        "targets": tuple(sorted({name for name in names if isinstance(name, str)})),
    }


def _in_header(path: Path) -> dict[str, Any]:
    """What the weights say: they are the truth where the configuration has patterns.

    Raises:
        AdapterError: they are missing or damaged; says so.
    """
    with open_tensor_file(path) as file:
        pairs = {key.partition(".lora_A.")[0]: entry for key, entry in file.entries.items() if ".lora_A." in key}
    if not pairs:
        return {}
    return {
        "rank": max(_rank(entry) for entry in pairs.values()),
        "targets": tuple(sorted({module.rpartition(".")[2] for module in pairs})),
    }


def _rank(a: Entry) -> int:
    return a.shape[0] if a.shape else 0
