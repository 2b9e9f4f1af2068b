"""The adapters on disk: what each folder holds, and why one cannot work. Reads configs and headers, never weights.

Whether an adapter fits a model is the engine's to judge.
"""

import json
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mp13.errors import AdapterError, MixError
from mp13.mix import check_name

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PICKLE = "adapter_model.bin"
_LARGEST_JSON = 16 * 2**20  # bytes; a config or header beyond this is not one


@dataclass(frozen=True)
class AdapterOnDisk:
    """A PEFT folder. `unfit` is None, or the reason why no model can use it; then `rank` may be 0."""

    name: str
    path: Path
    rank: int  # the largest rank in it
    kind: str  # "lora", "rslora", or the peft_type that is not supported, in lower case
    size_bytes: int  # of the weights
    unfit: str | None = None


class _UnfitError(Exception):
    """Why a folder cannot work; the text ends up in `AdapterOnDisk.unfit`."""


def list_adapters(folders: Sequence[Path]) -> list[AdapterOnDisk]:
    """Every adapter directly inside `folders`, sorted by name. A folder that does not exist has none.

    A name met again in a later folder is listed as unfit: a mix could not tell the two apart.

    Raises:
        AdapterError: a folder exists but cannot be read.
    """
    found: list[AdapterOnDisk] = []
    taken: dict[str, Path] = {}
    for folder in folders:
        for adapter in _adapters_in(folder):
            first = taken.setdefault(adapter.name, adapter.path)
            if first != adapter.path and adapter.unfit is None:
                adapter = replace(adapter, unfit=f"{first} has the same name; rename one of the two folders")
            if first != adapter.path or adapter not in found:
                found.append(adapter)
    return sorted(found, key=lambda adapter: (adapter.name, str(adapter.path)))


def _adapters_in(folder: Path) -> Iterator[AdapterOnDisk]:
    try:
        children = sorted(folder.iterdir())
    except FileNotFoundError:
        return
    except OSError as error:
        raise AdapterError(f"the adapter folder {folder} cannot be read ({error.strerror}); choose another") from error
    for child in children:
        if not child.name.startswith(".") and any((child / file).exists() for file in (CONFIG, WEIGHTS, PICKLE)):
            yield _look_at(child, folder)


def _look_at(path: Path, folder: Path) -> AdapterOnDisk:
    rank, kind, size = 0, "unknown", 0
    try:
        check_name(path.name)
        for part in (path, path / CONFIG, path / WEIGHTS):
            if not part.resolve().is_relative_to(folder.resolve()):
                raise _UnfitError(f"{part} is a link that leads out of {folder}; copy the adapter into it")
        config = _read_config(path / CONFIG)
        kind = _kind(config)
        size = _checked_size(path)
        rank = _largest_rank(config)
        if kind not in ("lora", "rslora"):
            raise _UnfitError(f"its type {kind!r} is not supported; use a LoRA or rsLoRA adapter")
    except (_UnfitError, MixError) as error:
        return AdapterOnDisk(path.name, path, rank, kind, size, str(error))
    except OSError as error:
        return AdapterOnDisk(path.name, path, rank, kind, size, f"{path} cannot be read ({error.strerror})")
    return AdapterOnDisk(path.name, path, rank, kind, size)


def _read_config(file: Path) -> dict[str, Any]:
    if not file.exists():
        raise _UnfitError(f"{CONFIG} is missing; copy the whole PEFT folder")
    if file.stat().st_size > _LARGEST_JSON:
        raise _UnfitError(f"{CONFIG} is too large to be one; export the adapter again with PEFT")
    return _parse(file.read_bytes(), CONFIG)


def _parse(text: bytes, what: str) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _UnfitError(f"{what} is not JSON ({error}); export the adapter again with PEFT") from error
    if not isinstance(content, dict):
        raise _UnfitError(f"{what} is not a JSON object; export the adapter again with PEFT")
    return content


def _kind(config: dict[str, Any]) -> str:
    kind = str(config.get("peft_type")).lower()
    if kind == "lora" and config.get("use_dora"):
        return "dora"
    return "rslora" if kind == "lora" and config.get("use_rslora") else kind


def _largest_rank(config: dict[str, Any]) -> int:
    pattern = config.get("rank_pattern") or {}
    ranks = [config.get("r"), *(pattern.values() if isinstance(pattern, dict) else [pattern])]
    whole = [rank for rank in ranks if type(rank) is int and rank >= 1]
    if whole != ranks:
        raise _UnfitError(f"r and rank_pattern in {CONFIG} give the ranks {ranks}; they must be whole numbers from 1")
    return max(whole)


def _checked_size(path: Path) -> int:
    """The size of the weights file in bytes, whose header must account for every one of them."""
    file = path / WEIGHTS
    if not file.exists():
        if (path / PICKLE).exists():
            raise _UnfitError(f"{PICKLE} is a pickle and is never loaded; save the adapter as {WEIGHTS}")
        raise _UnfitError(f"{WEIGHTS} is missing; copy the whole PEFT folder")
    size = file.stat().st_size
    with file.open("rb") as stream:
        start = stream.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        if length > min(size - 8, _LARGEST_JSON):
            raise _UnfitError(f"{WEIGHTS} ({size} bytes) is cut short or not a safetensors file; copy it again")
        header = _parse(stream.read(length), f"the header of {WEIGHTS}")
    ends = [_end(entry) for name, entry in header.items() if name != "__metadata__"]
    if 8 + length + max(ends, default=0) != size:
        raise _UnfitError(f"{WEIGHTS} ({size} bytes) is cut short or damaged; copy it again")
    return size


def _end(entry: Any) -> int:
    try:
        return int(entry["data_offsets"][1])
    except (KeyError, IndexError, TypeError, ValueError):
        return -1
