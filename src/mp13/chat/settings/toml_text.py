"""Settings as lines of a TOML file: where each one is, and how a line comes in or goes while all others stay.

What the lines mean is load.py's. A TOML library that keeps comments would be one more dependency, and it neither tells
line numbers nor puts a value beside its explanation, so the text is cut here; tomllib judges every piece.
"""

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import tomli_w


@dataclass(frozen=True)
class Statement:
    """`key` is that of the setting; lines `start` up to `end` of the text, from 0, set it: alone, or as a table."""

    key: str
    start: int
    end: int
    is_table: bool


def lines_of(text: str) -> list[str]:
    """With their endings; TOML knows no other than these."""
    return re.findall(r"[^\n]*\n|[^\n]+\Z", text)


def statements(text: str) -> list[Statement]:
    """What sets something in `text`, which must be valid TOML, in order."""
    lines, found = lines_of(text), list[Statement]()
    for start, end, values in _pieces(lines):
        if values is None:  # a line under the table that was opened last
            table = found.pop()
            found.append(Statement(table.key, table.start, end, True))
        else:
            found.append(Statement(next(iter(values)), start, end, _is_header(lines[start])))
    return found


def _pieces(lines: list[str]) -> Iterator[tuple[int, int, dict[str, Any] | None]]:
    """The smallest runs of lines that are TOML, without empty lines and comments; None is what is in a table."""
    start, in_table = 0, False
    while start < len(lines):
        if not lines[start].strip() or lines[start].lstrip().startswith("#"):
            start += 1
            continue
        end, values = _piece(lines, start)
        is_header = _is_header(lines[start])
        yield start, end, values if is_header or not in_table else None
        in_table = in_table or is_header
        start = end


def _piece(lines: list[str], start: int) -> tuple[int, dict[str, Any]]:
    """Where the statement that begins at `start` ends, and what it says."""
    for end in range(start + 1, len(lines) + 1):
        try:
            return end, tomllib.loads("".join(lines[start:end]))
        except tomllib.TOMLDecodeError:
            continue  # the text as a whole is valid, so a value goes on in the next line
    raise ValueError(f"line {start + 1} begins nothing that ends")


def _is_header(line: str) -> bool:
    return line.lstrip().startswith("[")


def assigned(text: str, key: str, value: Any) -> str:
    """`text` with `key` set to `value`, in the line that set it before, else under its explanation, else at the end of
    the plain lines. A comment behind the old value stays."""
    lines, own = lines_of(text), [found for found in statements(text) if found.key == key]
    end_of_line = "\r\n" if "\r\n" in text else "\n"
    line = f"{key} = {toml_value(value)}"
    if own and not own[0].is_table:
        first = own.pop(0)
        lines[first.start : first.end] = [
            line + _comment_behind("".join(lines[first.start : first.end])) + end_of_line,
            *[""] * (first.end - first.start - 1),  # so that the lines of the others keep their numbers
        ]
        for other in own:
            lines[other.start : other.end] = [""] * (other.end - other.start)
        return "".join(lines)
    text = removed(text, key)
    lines = lines_of(text)
    place = _place_of(text, key)
    if place and not lines[place - 1].endswith("\n"):
        lines[place - 1] += end_of_line
    return "".join([*lines[:place], line, end_of_line, *lines[place:]])


def removed(text: str, key: str) -> str:
    """`text` without the lines that set `key`."""
    gone = {line for found in statements(text) if found.key == key for line in range(found.start, found.end)}
    return "".join(line for number, line in enumerate(lines_of(text)) if number not in gone)


def _place_of(text: str, key: str) -> int:
    """The line before which a new `key` goes: after its default in a comment, and above all tables."""
    lines = lines_of(text)
    tables = [found.start for found in statements(text) if found.is_table]
    last = min(tables, default=len(lines))
    while tables and last and lines[last - 1].lstrip().startswith("#"):  # what is said of the table
        last -= 1
    shown = re.compile(rf"#\s?{re.escape(key)}\s*=")
    explained = [number + 1 for number, line in enumerate(lines[:last]) if shown.match(line)]
    return explained[0] if explained else last


def _comment_behind(statement: str) -> str:
    """What follows the value of a statement of one line, with the space before it; empty if nothing does."""
    if statement.count("\n") > 1:
        return ""
    line = statement.rstrip("\r\n")
    for hash_sign in (match.start() for match in re.finditer("#", line)):
        try:
            tomllib.loads(line[:hash_sign])
        except tomllib.TOMLDecodeError:
            continue  # it is part of the value
        value = line[:hash_sign].rstrip()
        return line[len(value) :]
    return ""


def toml_value(value: Any) -> str:
    """`value` in one line of TOML, which has no word for nothing: "none" is what the settings read."""
    if value is None:
        return '"none"'
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(toml_value, value))}]"
    if isinstance(value, dict):
        pairs = [f"{tomli_w.dumps({key: 0}).rpartition(' = ')[0]} = {toml_value(each)}" for key, each in value.items()]
        return f"{{ {', '.join(pairs)} }}" if pairs else "{}"
    plain = value if isinstance(value, bool | int | float | str) else str(value)
    return tomli_w.dumps({"x": plain}).removeprefix("x = ").rstrip("\n")
