"""A GGUF file: its metadata, and its tensors dequantized. No torch: the library reads GGUF, too.

Nothing in the file is believed: every count, length and offset is checked against the file's size before it is used,
so a damaged or hostile file costs no more time and memory than a whole one. What metadata and names mean is told by
gguf_config.py and gguf_tokenizer.py. The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import itertools
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import gguf
import numpy as np
from gguf import GGMLQuantizationType, GGUFValueType
from numpy.typing import NDArray

from mp13.errors import ModelError

Array = NDArray[Any]

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_MOST_DIMENSIONS = 4
_FORMATS = {
    GGUFValueType.UINT8: "<B", GGUFValueType.INT8: "<b", GGUFValueType.UINT16: "<H", GGUFValueType.INT16: "<h",
    GGUFValueType.UINT32: "<I", GGUFValueType.INT32: "<i", GGUFValueType.FLOAT32: "<f", GGUFValueType.BOOL: "<?",
    GGUFValueType.UINT64: "<Q", GGUFValueType.INT64: "<q", GGUFValueType.FLOAT64: "<d",
}  # fmt: skip


@dataclass(frozen=True)
class GGUFTensor:
    """A tensor as it lies in the file; `shape` as in PyTorch, the last dimension contiguous."""

    name: str
    kind: GGMLQuantizationType
    shape: tuple[int, ...]
    start: int  # in bytes from the beginning of the file
    num_bytes: int


class GGUFFile:
    """`metadata` maps names to str, int, float, bool, lists of str, or numpy arrays. `tensors` are by name.

    Args:
        only_head: read the metadata before the tokenizer's, and no tensors; that takes no time.

    Raises:
        ModelError: the file is no GGUF, is damaged or incomplete, or holds tensors of types that nothing here reads.
    """

    def __init__(self, path: Path, *, only_head: bool = False) -> None:
        self.path = path
        try:
            self._bytes = np.memmap(path, np.uint8, "r").data
        except (OSError, ValueError) as error:  # ValueError: an empty file
            raise ModelError(f"{path} cannot be read ({error}); fetch the file again") from None
        self._at = 0
        num_tensors, num_fields = self._read_header()
        self.metadata: dict[str, Any] = {}
        for _ in range(num_fields):
            name = self._text()
            if only_head and name.startswith("tokenizer."):
                break
            if name in self.metadata:
                self._damaged(f"it says {name[:60]!r} twice")
            self.metadata[name] = self._value(self._number("<I"))
        self.tensors = {} if only_head else self._read_tensors(num_tensors)

    def dense(self, tensor: GGUFTensor, rows: Array | slice = slice(None)) -> Array:
        """The tensor, or the named rows of a matrix in their order, in float32."""
        kind = tensor.kind
        of = {GGMLQuantizationType.F32: "<f4", GGMLQuantizationType.F16: "<f2"}.get(kind, "u1")
        raw: Array = np.frombuffer(self._bytes[tensor.start : tensor.start + tensor.num_bytes], of)
        # dequantizing works along rows, so rows can be chosen before
        values = gguf.dequantize(raw.reshape(*tensor.shape[:-1], -1)[rows], kind)
        return np.require(values, np.float32, "W")  # what is float32 already is a view of the read-only file

    def _read_header(self) -> tuple[int, int]:
        """The numbers of tensors and of metadata fields."""
        if bytes(self._take(4)) != _MAGIC:
            self._damaged("it does not begin with 'GGUF'")
        version = self._number("<I")
        if version not in _VERSIONS:
            big_endian = version & 0xFFFF == 0
            said = "it is for big-endian machines" if big_endian else f"its version is {version}, not 2 or 3"
            raise ModelError(f"{self.path} cannot be read: {said}; fetch another file of this model")
        return self._number("<Q"), self._number("<Q")

    def _read_tensors(self, count: int) -> dict[str, GGUFTensor]:
        found: dict[str, tuple[GGMLQuantizationType, tuple[int, ...], int]] = {}
        for _ in range(count):
            name = self._text()
            if name in found:
                self._damaged(f"it has two tensors {name[:60]!r}")
            num_dimensions = self._number("<I")
            if not 1 <= num_dimensions <= _MOST_DIMENSIONS:
                self._damaged(f"tensor {name[:60]!r} has {num_dimensions} dimensions")
            shape = tuple(self._number("<Q") for _ in range(num_dimensions))[::-1]
            found[name] = self._kind(name, self._number("<I")), shape, self._number("<Q")
        alignment = self.metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment < 8 or alignment % 8:
            self._damaged(f"its alignment is {str(alignment)[:20]}")
        data = -(-self._at // alignment) * alignment
        tensors = {name: self._tensor(name, *described, data) for name, described in found.items()}
        self._refuse_overlaps(list(tensors.values()))
        return tensors

    def _kind(self, name: str, number: int) -> GGMLQuantizationType:
        try:
            kind = GGMLQuantizationType(number)
            one_block = np.zeros((1, gguf.GGML_QUANT_SIZES[kind][1]), np.uint8)
            gguf.dequantize(one_block, kind)
        except (ValueError, KeyError, NotImplementedError):
            known = GGMLQuantizationType._value2member_map_.get(number)
            called = known.name if isinstance(known, GGMLQuantizationType) else f"number {number}"
            raise ModelError(
                f"{self.path} cannot be read: tensor {name[:60]!r} is of type {called}, which the gguf package does "
                "not dequantize; update it, or fetch another quantization such as Q8_0 or Q4_K_M"
            ) from None
        return kind

    def _tensor(
        self, name: str, kind: GGMLQuantizationType, shape: tuple[int, ...], offset: int, data: int
    ) -> GGUFTensor:
        per_block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
        if min(shape) < 1 or shape[-1] % per_block:
            self._damaged(f"tensor {name[:60]!r} of type {kind.name} cannot have the shape {shape}")
        num_bytes = math.prod(shape) // per_block * block_bytes  # of Python's own integers, which do not overflow
        if data + offset + num_bytes > len(self._bytes):
            self._damaged(f"tensor {name[:60]!r} would end at byte {data + offset + num_bytes}")
        return GGUFTensor(name, kind, shape, data + offset, num_bytes)

    def _refuse_overlaps(self, tensors: Sequence[GGUFTensor]) -> None:
        in_order = sorted(tensors, key=lambda tensor: tensor.start)
        for before, after in itertools.pairwise(in_order):
            if before.start + before.num_bytes > after.start:
                self._damaged(f"tensors {before.name[:60]!r} and {after.name[:60]!r} overlap")

    def _value(self, kind: int) -> Any:
        if kind == GGUFValueType.STRING:
            return self._text()
        if kind == GGUFValueType.ARRAY:
            element, count = self._number("<I"), self._number("<Q")
            if element == GGUFValueType.STRING:
                return [self._text() for _ in range(count)]
            of = self._format(element)
            return np.frombuffer(self._take(struct.calcsize(of) * count), of)
        return self._number(self._format(kind))

    def _format(self, kind: int) -> str:
        if kind not in _FORMATS:
            self._damaged(f"a value in it is of the unknown type {kind}")
        return _FORMATS[GGUFValueType(kind)]

    def _text(self) -> str:
        raw = bytes(self._take(self._number("<Q")))
        try:
            return raw.decode()
        except UnicodeDecodeError:
            self._damaged(f"{raw[:30]!r} in it is no UTF-8 text")

    def _number(self, of: str) -> Any:
        return struct.unpack(of, self._take(struct.calcsize(of)))[0]

    def _take(self, num_bytes: int) -> memoryview:
        start, self._at = self._at, self._at + num_bytes
        if self._at > len(self._bytes):
            self._damaged(f"something in it would end at byte {self._at}")
        return self._bytes[start : self._at]

    def _damaged(self, reason: str) -> NoReturn:
        raise ModelError(
            f"{self.path} is no GGUF file, or is damaged or incomplete: {reason}, and the file has "
            f"{len(self._bytes)} bytes; fetch it again"
        )
