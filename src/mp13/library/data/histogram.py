"""How long samples are, in tokens: a few numbers, and bins that double, since lengths have long tails."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Bin:
    """`count` samples of `least` to `most` tokens."""

    least: int
    most: int
    count: int


@dataclass(frozen=True)
class Histogram:
    """Of samples' lengths. Percentiles are lengths that samples have (nearest rank)."""

    count: int
    total: int
    shortest: int
    median: int
    p95: int
    longest: int
    bins: tuple[Bin, ...]


def histogram(lengths: Sequence[int]) -> Histogram:
    """Of at least one length, each 1 or more."""
    ordered = sorted(lengths)
    first, last = (ordered[0] - 1).bit_length(), (ordered[-1] - 1).bit_length()
    bins = dict.fromkeys(range(first, last + 1), 0)
    for length in ordered:
        bins[(length - 1).bit_length()] += 1
    return Histogram(
        count=len(ordered),
        total=sum(ordered),
        shortest=ordered[0],
        median=_percentile(ordered, 50),
        p95=_percentile(ordered, 95),
        longest=ordered[-1],
        bins=tuple(Bin(2**e // 2 + 1, 2**e, count) for e, count in bins.items()),
    )


def _percentile(ordered: Sequence[int], percent: int) -> int:
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]
