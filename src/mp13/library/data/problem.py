"""What is wrong with training data, and where: one sentence a problem, `FILE:LINE: what; what to do`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mp13.errors import ConfigError

MOST_PROBLEMS = 20  # after so many, no more is read
_LONGEST = 60  # characters of a value that is shown


@dataclass(frozen=True)
class Problem:
    """`line` is None where the source as a whole is meant."""

    source: str
    line: int | None
    what: str
    fix: str

    @property
    def place(self) -> str:
        return self.source if self.line is None else f"{self.source}:{self.line}"

    @property
    def told(self) -> str:
        return f"{self.what}; {self.fix}"

    def __str__(self) -> str:
        return f"{self.place}: {self.told}"


class DataError(ConfigError):
    """Training data that cannot be used. `problems` are the first of them; the sentence is that of the first."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        more = f" ({len(problems) - 1} more: `mp13 data check`)" if len(problems) > 1 else ""
        super().__init__(f"{problems[0]}{more}")
        self.problems = tuple(problems)


class BadRecord(Exception):
    """Says of the record that is being read what is wrong and what to do. Never leaves mp13.library.data."""

    def __init__(self, what: str, fix: str) -> None:
        super().__init__(what)
        self.what, self.fix = what, fix


def shown(value: Any) -> str:
    """A value as Python writes it, which shows control characters by their numbers; cut where it is long."""
    text = repr(value[: _LONGEST + 1] if isinstance(value, str) else value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def kind_of(value: Any) -> str:
    """What a value of JSON is called."""
    names = {type(None): "null", bool: "true or false", int: "a number", float: "a number", str: "text",
             list: "a list", dict: "an object"}  # fmt: skip
    return names.get(type(value), f"of type {type(value).__name__}")
