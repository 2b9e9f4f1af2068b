"""Rows out of the pages of an SQLite file whose directory is broken, read as https://sqlite.org/fileformat2.html lays
them out. Which tables they are of, nobody says: repair.py tells by their columns."""

import struct
from collections.abc import Iterator
from pathlib import Path

Value = None | int | float | str | bytes
_LEAF = 0x0D  # a page with rows of a table
_SIZES = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}  # bytes of an integer by its type


def raw_rows(path: Path) -> Iterator[tuple[int, list[Value]]]:
    """Every row that can be read, with its rowid; of pages that the write-ahead log has too, as that has them."""
    pages, size = _pages(path)
    for number, page in pages.items():
        start = 100 if number == 1 else 0
        if page[start : start + 1] != bytes([_LEAF]):
            continue
        (count,) = struct.unpack_from(">H", page, start + 3)
        for cell in range(min(count, size // 4)):
            try:
                (place,) = struct.unpack_from(">H", page, start + 8 + 2 * cell)
                yield _row(page, place, pages, size)
            except (IndexError, KeyError, ValueError, struct.error):
                continue


def _pages(path: Path) -> tuple[dict[int, bytes], int]:
    """By number from 1, and their size."""
    data = path.read_bytes()
    (size,) = struct.unpack_from(">H", data.ljust(18, b"\0"), 16)
    size = size if size in (512, 1024, 2048, 4096, 8192, 16384, 32768) else 4096
    pages = {1 + at // size: data[at : at + size] for at in range(0, len(data), size)}
    wal = path.with_name(f"{path.name}-wal")
    log = wal.read_bytes() if wal.exists() else b""
    for at in range(32, len(log) - size - 23, size + 24):
        (number,) = struct.unpack_from(">I", log, at)
        pages[number] = log[at + 24 : at + 24 + size]
    return pages, size


def _row(page: bytes, place: int, pages: dict[int, bytes], size: int) -> tuple[int, list[Value]]:
    length, place = _varint(page, place)
    rowid, place = _varint(page, place)
    most, least = size - 35, (size - 12) * 32 // 255 - 23
    local = length
    if length > most:
        local = least + (length - least) % (size - 4)
        local = local if local <= most else least
    parts, missing = [page[place : place + local]], length - local
    following = struct.unpack_from(">I", page, place + local)[0] if missing else 0
    while missing > 0:  # what was too long for the page
        more = pages[following]
        parts.append(more[4 : 4 + missing])
        missing -= len(parts[-1])
        (following,) = struct.unpack_from(">I", more)
    return rowid, _values(b"".join(parts))


def _values(record: bytes) -> list[Value]:
    end, place = _varint(record, 0)
    at, values = end, list[Value]()
    while place < end:
        kind, place = _varint(record, place)
        if kind == 0:
            values.append(None)
        elif kind in (8, 9):
            values.append(kind - 8)
        elif kind == 7:
            values.append(struct.unpack_from(">d", record, at)[0])
            at += 8
        else:
            width = _SIZES[kind] if kind in _SIZES else (kind - 12) // 2
            if kind in (10, 11) or at + width > len(record):
                raise ValueError("no record")
            content = record[at : at + width]
            at += width
            if kind in _SIZES:
                values.append(int.from_bytes(content, "big", signed=True))
            else:
                values.append(content.decode("utf-8", "replace") if kind % 2 else content)
    return values


def _varint(data: bytes, place: int) -> tuple[int, int]:
    """The number that begins there, and where the next thing does."""
    value = 0
    for byte in range(9):
        one = data[place + byte]
        if byte == 8:
            return value << 8 | one, place + 9
        value = value << 7 | one & 0x7F
        if one < 0x80:
            return value, place + byte + 1
    raise ValueError("no number")
