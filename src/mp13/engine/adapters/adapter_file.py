"""A PEFT folder becomes checked tensors, or is refused with its reason before the model is touched.

The header is checked against the model first; only then are the tensors read, once, hashed and parsed from one buffer.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from mp13.engine.adapters.adapter_config import LoraSettings, read_lora_settings, short
from mp13.engine.models.interface import AdapterTarget
from mp13.engine.request import AdapterInfo
from mp13.errors import AdapterError

WEIGHTS_FILE = "adapter_model.safetensors"
_MAX_HEADER_BYTES = 16 << 20
_KEY = re.compile(r"base_model\.model\.(.+)\.(lora_A|lora_B)\.weight")
_DTYPES = {"F32", "F16", "BF16", "F64"}


@dataclass(frozen=True)
class LoadedAdapter:
    """`pairs` maps a module path to A (rank, in_features) and s·B (out_features, rank), on the CPU."""

    info: AdapterInfo
    pairs: dict[str, tuple[torch.Tensor, torch.Tensor]]


def load_adapter_file(
    folder: Path, name: str, targets: Mapping[str, AdapterTarget], *, max_rank: int, dtype: torch.dtype, model: str
) -> LoadedAdapter:
    """Read the adapter in `folder` for a model with these `targets`.

    Raises:
        AdapterError: the folder does not hold an adapter that this model can run; says why.
    """
    try:
        if not folder.is_dir():
            raise AdapterError(f"{str(folder)!r} is not a folder; an adapter is a folder that PEFT saved")
        settings, config_bytes = read_lora_settings(folder)
        if settings.rank > max_rank:
            raise AdapterError(
                f"{folder}: rank {settings.rank} is over max_lora_rank = {max_rank}; raise max_lora_rank"
            )
        header, weights_bytes = _read_weights(folder, settings, targets)
    except OSError as error:
        raise AdapterError(f"{folder} cannot be read ({error.strerror or error}); check its permissions") from None
    try:
        tensors = safetensors.torch.load(weights_bytes)
    except Exception as error:  # safetensors raises types of its own for every kind of damage
        raise AdapterError(f"{folder / WEIGHTS_FILE} is damaged: {error}") from None
    pairs = {}
    for path in sorted({match[1] for key in header if (match := _KEY.fullmatch(key))}):
        a, b = (tensors[f"base_model.model.{path}.{side}.weight"] for side in ("lora_A", "lora_B"))
        pairs[path] = (a.to(dtype), (b.float() * settings.scale).to(dtype))
        if not all(tensor.isfinite().all() for tensor in pairs[path]):  # as they will be used: scaled, and in dtype
            name_of_dtype = str(dtype).removeprefix("torch.")
            raise AdapterError(f"{folder}: {path} is NaN or infinite in {name_of_dtype}; did its training diverge?")
    digest = hashlib.sha256()
    for content in (config_bytes, weights_bytes):
        digest.update(len(content).to_bytes(8, "little") + content)
    info = AdapterInfo(
        name=name,
        digest=digest.hexdigest(),
        kind=settings.kind,
        rank=settings.rank,
        target_modules=tuple(sorted({path.rpartition(".")[2] for path in pairs})),
        size_bytes=len(weights_bytes),
        warnings=_warnings(settings, model),
    )
    return LoadedAdapter(info, pairs)


def _read_weights(
    folder: Path, settings: LoraSettings, targets: Mapping[str, AdapterTarget]
) -> tuple[dict[str, Any], bytes]:
    """The header's entries, checked against the model, and the whole file's bytes."""
    path = folder / WEIGHTS_FILE
    if not path.is_file():
        others = ", ".join(sorted(p.name for p in folder.glob("*.bin")))
        hint = f"{others} is a pickle, which is never loaded; " if others else ""
        raise AdapterError(f"{path} is missing; {hint}save the adapter as safetensors")
    with path.open("rb") as file:
        length_bytes = file.read(8)
        length = int.from_bytes(length_bytes, "little")
        if len(length_bytes) < 8 or not 2 <= length <= min(_MAX_HEADER_BYTES, path.stat().st_size - 8):
            raise AdapterError(f"{path} is damaged: its header claims {length} bytes")
        header_bytes = file.read(length)
        header = _parse_header(path, header_bytes)
        _check_against_model(path, header, settings, targets)
        size = 8 + length + max(entry["data_offsets"][1] for entry in header.values())
        if (actual := path.stat().st_size) != size:
            raise AdapterError(f"{path} is damaged: {actual} bytes where its header describes {size}; copy it again")
        return header, length_bytes + header_bytes + file.read()


def _parse_header(path: Path, content: bytes) -> dict[str, Any]:
    try:
        header = json.loads(content, object_pairs_hook=_unique)
        header.pop("__metadata__", None)
        for entry in header.values():
            shape, (start, stop) = entry["shape"], entry["data_offsets"]
            if not (isinstance(entry["dtype"], str) and isinstance(shape, list) and 0 <= start <= stop):
                raise ValueError(f"entry {entry}")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise AdapterError(f"{path} is damaged: its header cannot be read ({error!s:.200})") from None
    if not header:
        raise AdapterError(f"{path} holds no tensors")
    return dict(header)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key stands twice")
    return result


def _check_against_model(
    path: Path, header: dict[str, Any], settings: LoraSettings, targets: Mapping[str, AdapterTarget]
) -> None:
    present: dict[str, set[str]] = {}
    for key, entry in header.items():
        match = _KEY.fullmatch(key)
        if match is None:
            raise AdapterError(f"{path}: tensor {short(key)} is not part of a LoRA adapter")
        module, side = match.groups()
        if (target := targets.get(module)) is None:
            raise AdapterError(f"{path}: the model has no module {short(module)} that an adapter can change")
        _check_tensor(path, key, entry, _wanted_shape(target, side, settings.rank))
        present.setdefault(module, set()).add(side)
    for module in sorted(present.keys() | _expected_modules(settings, targets)):
        if missing := {"lora_A", "lora_B"} - present.get(module, set()):
            raise AdapterError(f"{path}: {module} lacks {' and '.join(sorted(missing))}; the adapter is incomplete")
    if isinstance(settings.target_modules, tuple):
        for module in present.keys() - _expected_modules(settings, targets):
            raise AdapterError(f"{path}: tensors for {module!r}, which target_modules does not name")


def _expected_modules(settings: LoraSettings, targets: Mapping[str, AdapterTarget]) -> set[str]:
    """Modules that PEFT would adapt; empty for a regular expression, which may be hostile and is never run."""
    names = settings.target_modules
    if isinstance(names, str):
        return set()
    return {path for path in targets if any(path == name or path.endswith(f".{name}") for name in names)}


def _wanted_shape(target: AdapterTarget, side: str, rank: int) -> list[int]:
    if side == "lora_A":
        return [rank, target.linear.in_features]
    return [list(target.linear.parts.values())[target.part], rank]


def _check_tensor(path: Path, key: str, entry: dict[str, Any], wanted: list[int]) -> None:
    if entry["dtype"] not in _DTYPES:
        raise AdapterError(f"{path}: {key} has type {short(entry['dtype'])}; use F32, F16 or BF16")
    if entry["shape"] != wanted:
        shape = short(entry["shape"])
        raise AdapterError(f"{path}: {key} has shape {shape}, this model needs {wanted}; was it made for it?")


def _warnings(settings: LoraSettings, model: str) -> tuple[str, ...]:
    recorded = (settings.base_model or "").rstrip("/\\").replace("\\", "/").rpartition("/")[2]
    if recorded and recorded.lower() != Path(model).name.lower():
        return (f"made for {recorded!r}, used on {Path(model).name!r}",)
    return ()
