"""Turns measured times into tables, ratios and verdicts. Plain data in, text out; runs nothing.

A ratio is the median over rounds of one round's two measurements: they were taken next to each other, so what
disturbed the machine in that round disturbed both.
"""

from dataclasses import asdict, dataclass
from statistics import median
from typing import Any


@dataclass(frozen=True)
class Series:
    """One measurement, repeated: a value a round, in order. `unit` is "tok/s" or "ms"."""

    name: str
    unit: str
    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return median(self.values)


@dataclass(frozen=True)
class Bar:
    """What ours must reach: `ours` over `theirs`, names of two series, at least or at most `limit`."""

    ours: str
    theirs: str
    limit: float
    at_least: bool = True


@dataclass(frozen=True)
class Verdict:
    bar: Bar
    ratios: tuple[float, ...]  # one a round

    @property
    def ratio(self) -> float:
        return median(self.ratios)

    @property
    def met(self) -> bool:
        return self.ratio >= self.bar.limit if self.bar.at_least else self.ratio <= self.bar.limit

    def __str__(self) -> str:
        sign = ">=" if self.bar.at_least else "<="
        return (
            f"{'met   ' if self.met else 'MISSED'}  {self.ratio:.2f}x (bar {sign} {self.bar.limit:.2f}x; "
            f"rounds {min(self.ratios):.2f} to {max(self.ratios):.2f})  {self.bar.ours} / {self.bar.theirs}"
        )


def judge(series: list[Series], bars: list[Bar]) -> list[Verdict]:
    """Raises KeyError for a bar whose series was not measured."""
    by_name = {s.name: s for s in series}
    return [Verdict(bar, _ratios(by_name[bar.ours], by_name[bar.theirs])) for bar in bars]


def _ratios(ours: Series, theirs: Series) -> tuple[float, ...]:
    if ours.unit != theirs.unit:
        raise ValueError(f"{ours.name!r} is in {ours.unit}, {theirs.name!r} in {theirs.unit}; they have no ratio")
    return tuple(a / b for a, b in zip(ours.values, theirs.values, strict=True))


def text_table(series: list[Series]) -> str:
    width = max(len(s.name) for s in series)
    return "\n".join(
        f"{s.name:{width}}  {s.median:8.1f} {s.unit:5}  ({min(s.values):.1f} to {max(s.values):.1f})" for s in series
    )


def markdown(series: list[Series], verdicts: list[Verdict], environment: dict[str, str]) -> str:
    """Two tables and the machine they were measured on."""
    lines = ["| measured | median | min to max |", "|---|---|---|"]
    lines += [f"| {s.name} | {s.median:.1f} {s.unit} | {min(s.values):.1f} to {max(s.values):.1f} |" for s in series]
    lines += ["", "| ratio | median of rounds | bar | |", "|---|---|---|---|"]
    for verdict in verdicts:
        bar = verdict.bar
        sign, word = "≥" if bar.at_least else "≤", "met" if verdict.met else "missed"
        lines.append(f"| {bar.ours} / {bar.theirs} | {verdict.ratio:.2f}× | {sign} {bar.limit:.2f}× | {word} |")
    lines += ["", *(f"- {name}: {value}" for name, value in environment.items())]
    return "\n".join(lines) + "\n"


def as_json(series: list[Series], verdicts: list[Verdict], environment: dict[str, str]) -> dict[str, Any]:
    return {
        "environment": environment,
        "series": [asdict(s) | {"median": s.median} for s in series],
        "verdicts": [asdict(v) | {"ratio": v.ratio, "met": v.met} for v in verdicts],
    }
