"""The fields of one record on their way to a sample: of the right type, and none unknown that would be lost unseen."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from mp13.library.data.problem import BadRecord, kind_of, shown

# What would change what is learned and is not read; left out in silence, it would be learned wrongly.
_NOT_READ = {
    "tools": "tools are not rendered", "functions": "tools are not rendered", "tool_calls": "tools are not rendered",
    "function_call": "tools are not rendered", "images": "images are not read", "image": "images are not read",
    "audio": "sound is not read", "videos": "images are not read",
    "history": "earlier turns are read from messages alone",
    "reasoning_content": "reasoning is read as a part of content alone",
}  # fmt: skip
_ALIKE = 0.75  # of two names, one is a misspelling of the other


class Fields:
    """`known` are the keys that are read. One whose value is null or, of those not known, an empty list counts as not
    there: tables have every column in every row."""

    def __init__(self, values: Mapping[str, Any], known: Sequence[str], what: str = "") -> None:
        self.values = {key: value for key, value in values.items() if value is not None}
        self.what = what  # such as "message 2: ", before what is said of it
        self._all, self._known = values, known

    def text(self, key: str, *, may_be_empty: bool = False) -> str:
        """Raises BadRecord for what is no text, or empty though it may not be."""
        value = self.required(key)
        if not isinstance(value, str):
            raise self.bad(f"{key} is {kind_of(value)}, not text", "write it as one text in quotes")
        try:
            value.encode()
        except UnicodeEncodeError as error:
            half = value[error.start]
            raise self.bad(f"{key} holds half a character ({shown(half)})", "write the whole character") from None
        if not may_be_empty and not value.strip():
            raise self.bad(f"{key} is empty", "write it, or leave the sample out")
        return value

    def required(self, key: str) -> Any:
        if key in self.values:
            return self.values[key]
        if key in self._all:
            raise self.bad(f"{key} is null", "write it, or leave the sample out")
        near = difflib.get_close_matches(key, self._all.keys() - self._known, 1, _ALIKE)
        raise self.bad(f"has no {key}", f"is {shown(near[0])} meant for it?" if near else "add it")

    def require_all_of(self, keys: Sequence[str]) -> None:
        """Raises BadRecord where some of the keys, or a misspelling of one, are there and others are not."""
        near = {key for key in keys if key in self._all or difflib.get_close_matches(key, self._all, 1, _ALIKE)}
        for key in keys if near else ():
            self.required(key)

    def unknown(self) -> list[str]:
        return [key for key, value in self.values.items() if key not in self._known and value not in ([], {})]

    def passed_over(self) -> list[str]:
        """The keys that are not read. Raises BadRecord where one of them would have been meant to be."""
        unknown = self.unknown()
        for key in unknown:
            if reason := _NOT_READ.get(key):
                raise self.bad(f"has {key}, but {reason}", "take the key out, or leave the sample out")
            absent = [name for name in self._known if name not in self.values]
            if near := difflib.get_close_matches(key, absent, 1, _ALIKE):
                raise self.bad(f"has {shown(key)}, which is not known", f"is {near[0]!r} meant?")
        return unknown

    def refuse_unknown(self) -> None:
        if unknown := self.passed_over():
            known = ", ".join(self._known)
            raise self.bad(f"has {shown(unknown[0])}, which is not known", f"write {known} and nothing else")

    def bad(self, what: str, fix: str) -> BadRecord:
        return BadRecord(self.what + what, fix)
