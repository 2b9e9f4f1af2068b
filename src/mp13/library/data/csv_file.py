"""Records out of CSV as RFC 4180 has it: commas, double quotes, the first line names the columns."""

import csv
from collections.abc import Iterator
from pathlib import Path

from mp13.library.data.json_file import Record
from mp13.library.data.problem import DataError, Problem, shown
from mp13.library.data.text_file import MOST_BYTES, begins, text_lines

_SEPARATORS = {";": "semicolons", "\t": "tabs"}


def csv_records(path: Path, source: str) -> Iterator[Record | Problem]:
    """Every row with the line where it begins; blank lines are passed over. Raises DataError for a header that is
    none."""
    begins(path, source)
    csv.field_size_limit(MOST_BYTES)  # 128 KiB otherwise
    lines = _Lines(path, source)
    rows = csv.reader(lines, strict=True)
    header: list[str] | None = None
    while True:
        line = rows.line_num + 1
        try:
            cells = next(rows)
        except StopIteration:
            break
        except csv.Error as error:
            fix = 'put text with quotes or line breaks in quotes, and write " in it as ""; what follows was not read'
            yield Problem(source, line, f"is not CSV ({error})", fix)
            return
        except _NotTextError as error:
            yield error.problem
            return
        if not cells:
            continue
        if header is None:
            header = _checked_header(cells, source, line)
        elif len(cells) == len(header):
            yield line, dict(zip(header, cells, strict=True))
        else:
            what = f"has {len(cells)} cells, and the header {len(header)}"
            yield Problem(source, line, what, "put text with commas in double quotes")
    if rows.line_num and header is None:
        raise DataError([Problem(source, None, "has no header", "name the columns in the first line")])


def _checked_header(names: list[str], source: str, line: int) -> list[str]:
    for separator, called in _SEPARATORS.items():
        if len(names) == 1 and separator in names[0]:
            problem = Problem(source, line, f"separates its columns with {called}", "separate them with commas")
            raise DataError([problem])
    names = [name.strip() for name in names]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise DataError([Problem(source, line, f"names the column {shown(twice)} twice", "give each its own name")])
    return names


class _NotTextError(Exception):
    def __init__(self, problem: Problem) -> None:
        super().__init__()
        self.problem = problem


class _Lines:
    """The lines of a file for csv.reader."""

    def __init__(self, path: Path, source: str) -> None:
        self._lines = text_lines(path, source)

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        if isinstance(line, Problem):
            raise _NotTextError(line)
        return line[1]
