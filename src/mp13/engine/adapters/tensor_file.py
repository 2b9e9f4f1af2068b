"""A safetensors file, read in two steps: its header, checked in itself, before any of its tensors take memory."""

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from mp13.errors import AdapterError

WEIGHTS_FILE = "adapter_model.safetensors"
_MAX_HEADER_BYTES = 16 << 20
_ITEM_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "U16": 2, "I16": 2, "F16": 2, "BF16": 2, "U32": 4,
    "I32": 4, "F32": 4, "U64": 8, "I64": 8, "F64": 8,
}  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """What a header says of one tensor. `start`: its first byte, counted from the end of the header."""

    dtype: str
    shape: tuple[int, ...]
    start: int


@dataclass(frozen=True)
class OpenTensorFile:
    """A file whose header holds together: `entries` cover its data without gap or overlap."""

    path: Path
    entries: dict[str, Entry]
    data_start: int  # where the tensors begin
    size: int
    _head: bytes
    _file: BinaryIO

    def read(self) -> bytearray:
        """The whole file. What is missing at its end, where somebody writes it meanwhile, is missing here, too."""
        content = bytearray(self.size)  # filled in place: joining two `bytes` of this length takes ten times as long
        content[: self.data_start] = self._head
        with memoryview(content) as view:
            found = self.data_start + self._file.readinto(view[self.data_start :])  # type: ignore[attr-defined]
        del content[found:]
        return content


@contextmanager
def open_tensor_file(folder: Path) -> Iterator[OpenTensorFile]:
    """Open the adapter's weights in `folder`. No more than the header is read.

    Raises:
        AdapterError: they are missing, or damaged; OSError.
    """
    path = folder / WEIGHTS_FILE
    if not path.is_file():
        raise AdapterError(f"{path} is missing; {_instead(folder)}save the adapter as safetensors")
    with path.open("rb") as file:
        size = path.stat().st_size
        length_bytes = file.read(8)
        length = int.from_bytes(length_bytes, "little")
        if len(length_bytes) < 8 or not 2 <= length <= min(_MAX_HEADER_BYTES, size - 8):
            raise AdapterError(f"{path} is damaged: its header claims {length} bytes; copy it again")
        header_bytes = file.read(length)
        entries, data_bytes = _parse_header(path, header_bytes)
        if size != 8 + length + data_bytes:
            described = 8 + length + data_bytes
            raise AdapterError(f"{path} is damaged: {size} bytes where its header describes {described}; copy it again")
        yield OpenTensorFile(path, entries, 8 + length, size, length_bytes + header_bytes, file)


def _instead(folder: Path) -> str:
    """What lies there in place of the weights, if it explains something."""
    if pickles := ", ".join(sorted(p.name for p in folder.glob("*.bin"))):
        return f"{pickles} is a pickle, which is never loaded; "
    if (folder / "adapters.safetensors").is_file():
        return "adapters.safetensors is MLX's own format, to be converted to PEFT's; "
    return ""


def _parse_header(path: Path, content: bytes) -> tuple[dict[str, Entry], int]:
    """The entries by name, and the number of bytes their tensors take."""
    try:
        header = json.loads(content, object_pairs_hook=_unique)
        header.pop("__metadata__", None)
        entries = {key: _entry(entry) for key, entry in header.items()}
        spans = sorted(tuple(entry["data_offsets"]) for entry in header.values())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise AdapterError(f"{path} is damaged: its header cannot be read ({error!s:.200})") from None
    if not entries:
        raise AdapterError(f"{path} holds no tensors; save the adapter again")
    position = 0
    for start, stop in spans:
        if start != position:
            raise AdapterError(f"{path} is damaged: its tensors overlap or leave gaps at byte {position}")
        position = stop
    return entries, position


def _entry(entry: dict[str, Any]) -> Entry:
    dtype, shape, (start, stop) = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not (isinstance(dtype, str) and isinstance(shape, list) and all(type(n) is int for n in [*shape, start, stop])):
        raise ValueError(f"entry {entry!s:.80}")
    if min(shape, default=0) < 0 or stop - start != math.prod(shape) * _ITEM_BYTES.get(dtype, math.inf):
        raise ValueError(f"{start}:{stop} is not where a tensor {dtype!r:.20} {shape!s:.60} fits")
    return Entry(dtype, tuple(shape), start)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key stands twice")
    return result
