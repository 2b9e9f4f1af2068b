"""Which modules a LoRA changes, and with which rank and alpha: PEFT's rules over `model.layers.0.mlp.up_proj` and such.

The patterns come from a file that anybody may have written, so they run on a clock, which Python's own `re` has not.
"""

import math
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import regex

_SECONDS = 5.0  # that all patterns of one adapter may take together
_MAX_PATTERN_CHARS = 4096
_MAX_REPEATS = 10_000  # of all counted repetitions in a pattern together; compiling writes each of them out
_REPEAT = re.compile(r"\{(\d*),?(\d*)\}")
_Number = TypeVar("_Number", int, float)
_LAYER_NUMBER = re.compile(r".*?\.[^.]*\.(\d+)\.")  # the first number that stands where a layer's does


class PatternError(ValueError):
    """A pattern cannot be used; says why."""


class Pattern:
    """A regular expression of an adapter's configuration. It matches from the start of a path, or `whole` paths.

    Raises:
        PatternError: it is none, or the adapter's patterns take too long; matching does so, too.
    """

    def __init__(self, source: str, clock: "Clock", *, whole: bool = False) -> None:
        if len(source) > _MAX_PATTERN_CHARS:
            raise PatternError(f"the pattern {source[:40]!r}... has {len(source)} characters, too many to be one")
        counts = (max(int(f"0{count:.9}") for count in pair) for pair in _REPEAT.findall(source))
        if math.prod(count for count in counts if count) > _MAX_REPEATS:
            raise PatternError(f"the pattern {source[:80]!r} repeats itself too often; write it simpler")
        clock.remaining()
        try:
            re.compile(source)  # what PEFT runs it with; regex knows more, which could grow without bounds
            compiled = regex.compile(source)
        except (re.error, regex.error, RecursionError, OverflowError, MemoryError) as error:
            raise PatternError(f"{source[:80]!r} is not a regular expression ({str(error)!r:.80})") from None
        self._source, self._clock = source, clock
        self._match = compiled.fullmatch if whole else compiled.match

    def match(self, path: str) -> Any:
        try:
            return self._match(path, timeout=self._clock.remaining())
        except TimeoutError:
            raise PatternError(f"the pattern {self._source[:80]!r} takes too long; write it simpler") from None


class Clock:
    """The time that is left to one adapter's patterns, to be read and to match."""

    def __init__(self) -> None:
        self._end = time.monotonic() + _SECONDS

    def remaining(self) -> float:
        """Seconds. Raises PatternError when none is left."""
        if (seconds := self._end - time.monotonic()) <= 0:
            raise PatternError("its patterns together take too long; write them simpler")
        return seconds


def ending(source: str, clock: Clock) -> Pattern:
    """Matches a path that ends in `source` from some dot on: PEFT's `get_pattern_key`."""
    return Pattern(rf"(.*\.)?({source})$", clock)


def at_layer(source: str, clock: Clock) -> Pattern:
    """Finds the number that follows a list of layers named `source`."""
    return Pattern(rf"(?:^|.*?\.){source}\.(?P<number>\d+)\.", clock)


Names = tuple[str, ...] | Pattern  # whole paths or their ends; or a pattern of whole paths


@dataclass(frozen=True)
class ModuleChoice:
    """`targets` None is PEFT's "all-linear": every linear but the head."""

    targets: Names | None
    rank: int
    alpha: float
    exclude: Names = ()
    layers: frozenset[int] | None = None
    layer_lists: tuple[Pattern, ...] = ()
    rank_pattern: tuple[tuple[Pattern, int], ...] = ()
    alpha_pattern: tuple[tuple[Pattern, float], ...] = ()

    def includes(self, path: str, *, is_head: bool) -> bool:
        """Whether PEFT adapts the module. Raises PatternError."""
        if self._named(self.exclude, path):
            return False
        if self.targets is None:
            return not is_head
        if not isinstance(self.targets, tuple) or path in self.targets:
            return self._named(self.targets, path)
        return self._named(self.targets, path) and (self.layers is None or self._layer(path) in self.layers)

    def rank_of(self, path: str) -> int:
        return self._first(self.rank_pattern, path) or self.rank

    def alpha_of(self, path: str) -> float:
        alpha = self._first(self.alpha_pattern, path)
        return self.alpha if alpha is None else alpha

    def _named(self, names: Names, path: str) -> bool:
        if isinstance(names, Pattern):
            return names.match(path) is not None
        return any(path == name or path.endswith(f".{name}") for name in names)

    def _layer(self, path: str) -> int | None:
        if not self.layer_lists:
            found = _LAYER_NUMBER.match(path)
            return int(found[1]) if found else None
        for pattern in self.layer_lists:
            if number := pattern.match(path):
                return int(number["number"])
        return None

    def _first(self, patterns: Sequence[tuple[Pattern, _Number]], path: str) -> _Number | None:
        return next((value for pattern, value in patterns if pattern.match(path)), None)
