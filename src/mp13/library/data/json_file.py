"""Records out of JSON: one object a line, or a list of objects, whatever the file is called. Read piece by piece."""

import codecs
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mp13.library.data.problem import Problem, kind_of, shown
from mp13.library.data.text_file import MOST_BYTES, begins, not_utf8, text_lines, too_long

Record = tuple[int, dict[str, Any]]
_PIECE = 1 << 20  # bytes read at a time
_NEAR_END = 12  # characters: a literal or an escape that is cut off is no longer
_LINES = "write one object a line, or a list of objects: [{…}, {…}]"
_STOPPED = "correct it; what follows was not read"
_SPACE = re.compile(r"[ \t\n\r]*")


class _TwiceError(ValueError):
    """An object has a key twice, of which Python would drop one."""


def json_records(path: Path, source: str) -> Iterator[Record | Problem]:
    """Every record with the line where it begins. What cannot be read gives a Problem; in a list it is the last one."""
    if begins(path, source) == b"[":
        yield from _List(path, source).records()
        return
    is_first = True
    for line in text_lines(path, source):
        if isinstance(line, Problem):
            yield line
        elif is_first and line[1].strip() == "{":  # an object over several lines, each of which would be told
            yield Problem(source, line[0], "begins an object that goes on in the next line", _LINES)
            break
        elif line[1].strip():
            is_first = False
            yield _line_record(source, *line)


def parsed(text: str) -> Any:
    """The value that `text` is. Raises ValueError or RecursionError."""
    return _decoder.decode(text)


def why_not_json(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"is not JSON ({error.msg}, column {error.colno})"
    if isinstance(error, _TwiceError):
        return str(error)
    return "is nested too deeply" if isinstance(error, RecursionError) else f"is not JSON ({error})"


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise _TwiceError(f"has the key {shown(next(name for name in names if names.count(name) > 1))} twice")
    return found


_decoder = json.JSONDecoder(object_pairs_hook=_unique)


def _line_record(source: str, number: int, text: str) -> Record | Problem:
    try:
        value = parsed(text.strip())
    except (ValueError, RecursionError) as error:
        return Problem(source, number, why_not_json(error), _LINES)
    return _object(source, number, value)


def _object(source: str, number: int, value: Any) -> Record | Problem:
    if isinstance(value, dict):
        return number, value
    return Problem(source, number, f"is {kind_of(value)}, not an object", 'write {"messages": […]} or the like')


class _List:
    """A list of records, of which a piece at a time is in memory."""

    def __init__(self, path: Path, source: str) -> None:
        self._path, self._source = path, source
        self._text = ""
        self._at = 0
        self._line = 1  # of `_text[_at]`
        self._at_end = False

    def records(self) -> Iterator[Record | Problem]:
        with self._path.open("rb") as file:
            self._pieces = self._decoded(iter(lambda: file.read(_PIECE), b""))
            try:
                yield from self._items()
            except _StopReadingError as stopped:
                yield stopped.problem

    def _items(self) -> Iterator[Record | Problem]:
        self._expect("[")
        if self._next() == "]":
            self._expect("]")
        else:
            while True:
                self._next()
                line, value = self._line, self._value()
                yield _object(self._source, line, value)
                if self._expect(",]") == "]":
                    break
        if self._next():
            raise self._stopped("goes on behind the list's end", "write one list of objects, or one object a line")

    def _value(self) -> Any:
        while True:
            try:
                value, end = _decoder.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                cut_off = error.msg.startswith("Unterminated string") or error.pos > len(self._text) - _NEAR_END
                if not (cut_off and self._more()):
                    line = self._line + error.lineno - self._text.count("\n", 0, self._at) - 1
                    raise self._stopped(why_not_json(error), _STOPPED, line) from None
            except (ValueError, RecursionError) as error:
                raise self._stopped(why_not_json(error), _STOPPED) from None
            else:
                self._go_to(end)
                return value

    def _expect(self, wanted: str) -> str:
        found = self._next()
        if not found or found not in wanted:
            what = f"has {shown(found)}" if found else "ends"
            which = " or ".join(map(repr, wanted))
            raise self._stopped(f"is not JSON (it {what} where {which} is due)", _STOPPED)
        self._go_to(self._at + 1)
        return found

    def _next(self) -> str:
        """The next character that is no space, not taken yet; "" at the end."""
        while True:
            match = _SPACE.match(self._text, self._at)
            assert match is not None
            self._go_to(match.end())
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def _go_to(self, place: int) -> None:
        self._line += self._text.count("\n", self._at, place)
        self._at = place

    def _more(self) -> bool:
        """Read on; False at the end. As much again as is not taken yet: a long record is not begun too often."""
        if self._at_end:
            return False
        self._text, self._at = self._text[self._at :], 0
        if len(self._text) > MOST_BYTES:
            raise _StopReadingError(too_long(self._source, self._line))
        wanted, pieces = len(self._text), [self._text]
        while wanted >= 0 and not self._at_end:
            piece = next(self._pieces, None)
            self._at_end = piece is None
            pieces.append(piece or "")
            wanted -= len(piece or "")
        self._text = "".join(pieces)
        return True

    def _decoded(self, pieces: Iterator[bytes]) -> Iterator[str]:
        decoder, lines = codecs.getincrementaldecoder("utf-8-sig")(), 1
        for piece in pieces:
            try:
                yield decoder.decode(piece)
            except UnicodeDecodeError as error:
                line = lines + error.object.count(b"\n", 0, error.start)
                raise _StopReadingError(not_utf8(self._source, line, error.object[error.start])) from None
            lines += piece.count(b"\n")
        if decoder.getstate()[0]:
            raise _StopReadingError(not_utf8(self._source, lines, decoder.getstate()[0][0]))

    def _stopped(self, what: str, fix: str, line: int | None = None) -> "_StopReadingError":
        return _StopReadingError(Problem(self._source, line or self._line, what, fix))


class _StopReadingError(Exception):
    def __init__(self, problem: Problem) -> None:
        super().__init__()
        self.problem = problem
