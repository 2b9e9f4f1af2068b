"""Damaged and hostile GGUF files: a sentence each, at once and without memory, and never another error."""

import contextlib
import struct
import tracemalloc
from pathlib import Path

import pytest

from mp13 import LLM
from mp13.engine.models.gguf_file import GGUFFile
from mp13.engine.models.gguf_folder import write_settings
from mp13.errors import ModelError
from mp13.library.fit import read_model
from tests.engine.gguf_files import write_gguf
from tests.engine.tiny_models import tiny_model

HUGE = 2**60
U32, F32, STRING, ARRAY = 4, 0, 8, 9  # F32 is a type of tensors, the others are of values


def text(value: str, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(value) if length is None else length) + value.encode()


def header(num_tensors: int, num_fields: int, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, num_tensors, num_fields)


def tensor(name: str = "a", shape: tuple[int, ...] = (32,), kind: int = F32, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def number(name: str, value: int) -> bytes:
    return text(name) + struct.pack("<II", U32, value)


def array(kind: int, count: int) -> bytes:
    return text("x") + struct.pack("<IIQ", ARRAY, kind, count)


DATA = bytes(4096)
BROKEN: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "cannot be read"),
    "magic": (b"GGML" + DATA, "does not begin with 'GGUF'"),
    "only magic": (b"GGUF", "would end at byte 8"),
    "version 1": (header(0, 0, version=1) + DATA, "its version is 1, not 2 or 3"),
    "big-endian": (header(0, 0, version=3 << 24) + DATA, "for big-endian machines"),
    "tensor count": (header(HUGE, 0) + DATA, "damaged or incomplete"),
    "field count": (header(0, HUGE) + number("a", 1), "would end at byte"),
    "name length": (header(0, 1) + text("name", HUGE) + DATA, "would end at byte"),
    "name not text": (header(0, 1) + struct.pack("<Q", 2) + b"\xff\xfe" + DATA, "no UTF-8 text"),
    "text length": (header(0, 1) + text("a") + struct.pack("<IQ", STRING, HUGE) + DATA, "would end at byte"),
    "value type": (header(0, 1) + text("a") + struct.pack("<I", 77) + DATA, "unknown type 77"),
    "array length": (header(0, 1) + array(U32, HUGE) + DATA, "would end at byte"),
    "array of texts": (header(0, 1) + array(STRING, HUGE) + DATA, "damaged or incomplete"),
    "array of arrays": (header(0, 1) + array(ARRAY, 3) + DATA, "unknown type 9"),
    "field twice": (header(0, 2) + number("a", 1) + number("a", 2), "it says 'a' twice"),
    "alignment": (header(1, 1) + number("general.alignment", 0) + tensor() + DATA, "its alignment is 0"),
    "no dimensions": (header(1, 0) + tensor(shape=()) + DATA, "'a' has 0 dimensions"),
    "many dimensions": (header(1, 0) + tensor(shape=(1,) * 9) + DATA, "'a' has 9 dimensions"),
    "no elements": (header(1, 0) + tensor(shape=(32, 0)) + DATA, r"cannot have the shape \(0, 32\)"),
    "overflow": (header(1, 0) + tensor(shape=(2**32, 2**32)) + DATA, "'a' would end at byte 73786976294838206"),
    "offset": (header(1, 0) + tensor(offset=2**64 - 32) + DATA, "'a' would end at byte"),
    "cut data": (header(1, 0) + tensor(shape=(4096,)) + DATA, "'a' would end at byte"),
    "tensor type": (header(1, 0) + tensor(kind=99) + DATA, "'a' is of type number 99"),
    "type without weights": (header(1, 0) + tensor(kind=26) + DATA, "'a' is of type I32, which the gguf package does"),
    "broken block": (header(1, 0) + tensor(shape=(33,), kind=8) + DATA, r"type Q8_0 cannot have the shape \(33,\)"),
    "tensor twice": (header(2, 0) + tensor() + tensor(offset=128) + DATA, "two tensors 'a'"),
    "overlap": (header(2, 0) + tensor() + tensor("b", offset=64) + DATA, "tensors 'a' and 'b' overlap"),
    "control characters": (header(2, 0) + tensor("\x1b[2J") + tensor("\x1b[2J") + DATA, r"two tensors '\\x1b\[2J'"),
    "no model in it": (header(0, 0) + DATA, "cannot run here: its architecture 'None'"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_refused_with_its_name_and_the_reason(tmp_path: Path, case: str) -> None:
    content, reason = BROKEN[case]
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    tracemalloc.start()
    with pytest.raises(ModelError, match=reason) as error:
        LLM(str(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert str(path) in str(error.value)
    assert "\x1b" not in str(error.value)
    assert peak < 1 << 24


def test_no_shorter_copy_of_a_file_is_taken_for_whole(tmp_path: Path) -> None:
    whole = write_gguf(tmp_path / "whole.gguf", tiny_model(tmp_path / "model")).read_bytes()
    cut = tmp_path / "cut.gguf"
    for length in [*range(0, 4000, 37), *range(4000, len(whole) - 400, 4001), len(whole) - 400]:
        cut.write_bytes(whole[:length])
        with pytest.raises(ModelError):
            GGUFFile(cut)


def test_an_estimate_refuses_what_cannot_run_in_the_words_of_loading(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(header(0, 0) + DATA)
    with pytest.raises(ModelError) as loading:
        LLM(path)
    with pytest.raises(
        ModelError, match=r"model\.gguf cannot run here: .*; use this model's safetensors instead"
    ) as fit:
        read_model(path)
    assert str(fit.value) == str(loading.value)


def test_no_changed_byte_of_the_header_gives_another_error(tmp_path: Path) -> None:
    whole = write_gguf(tmp_path / "whole.gguf", tiny_model(tmp_path / "model")).read_bytes()
    changed = tmp_path / "changed.gguf"
    for position in range(0, 6000, 13):
        content = bytearray(whole)
        content[position] ^= 0xFF
        changed.write_bytes(content)
        with contextlib.suppress(ModelError):
            write_settings(GGUFFile(changed), tmp_path)
