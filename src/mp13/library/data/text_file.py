"""A file of text as lines that are known to be UTF-8. What the lines hold is the readers' of JSON and CSV."""

import os
from collections.abc import Iterator
from pathlib import Path

from mp13.library.data.problem import DataError, Problem

MOST_BYTES = 64 << 20  # of one line or record: more is no sample, and would fill the memory
_BEGINNINGS = {
    b"\x1f\x8b": ("is compressed with gzip", "unpack it: gunzip FILE"),
    b"\x28\xb5\x2f\xfd": ("is compressed with zstd", "unpack it: unzstd FILE"),
    b"PK\x03\x04": ("is a zip archive", "unpack it"),
    b"PAR1": ("is a Parquet file", "give it the suffix .parquet"),
    b"\xff\xfe": ("is written in UTF-16", "save it as UTF-8"),
    b"\xfe\xff": ("is written in UTF-16", "save it as UTF-8"),
}


def check_file(path: Path, source: str) -> None:
    """Raises DataError where there is no file that can be read, or nothing in it."""
    try:
        if not path.exists():
            raise _refused(source, "there is no such file", "give a file, a data set of the Hub, or store:all")
        if not path.is_file():
            raise _refused(source, "is not a file", "give .jsonl, .json, .csv or .parquet")
        if path.stat().st_size == 0:
            raise _refused(source, "is empty", "give at least one sample")
        path.open("rb").close()
    except OSError as error:
        raise _refused(source, f"cannot be read ({error.strerror})", "check the path and its permissions") from None


def begins(path: Path, source: str) -> bytes:
    """The first byte that is no space, without the mark of UTF-8 before it. Raises DataError if it is no text."""
    with path.open("rb") as file:
        head = file.read(4096)
        for beginning, (what, fix) in _BEGINNINGS.items():
            if head.startswith(beginning):
                raise _refused(source, what, fix.replace("FILE", os.path.basename(source)))
        if b"\0" in head:
            raise _refused(source, "is no text, or not in UTF-8 (it holds zero bytes)", "save it as UTF-8")
        head = head.removeprefix(b"\xef\xbb\xbf")
        while head and not head.strip():
            head = file.read(1 << 20)
    if not (head := head.strip()):
        raise _refused(source, "holds nothing but white space", "give at least one sample")
    return head[:1]


def text_lines(path: Path, source: str) -> Iterator[tuple[int, str] | Problem]:
    """Each line with its number and its end; a Problem in place of one that is not UTF-8."""
    with path.open("rb") as file:
        number = 0
        while raw := file.readline(MOST_BYTES + 1):
            number += 1
            if len(raw) > MOST_BYTES:
                yield too_long(source, number)
                return
            try:
                yield number, raw.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                yield not_utf8(source, number, raw[error.start])


def not_utf8(source: str, line: int, byte: int) -> Problem:
    return Problem(source, line, f"is not UTF-8 (byte 0x{byte:02x})", "save the file as UTF-8")


def too_long(source: str, line: int) -> Problem:
    return Problem(source, line, f"is longer than {MOST_BYTES >> 20} MiB", "write one sample a line, or fewer in each")


def _refused(source: str, what: str, fix: str) -> DataError:
    return DataError([Problem(source, None, what, fix)])
