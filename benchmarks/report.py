"""Turns measured times into tables, ratios and verdicts, and puts them out. Measures nothing.

A ratio is the median over rounds of one round's two measurements: they were taken next to each other, so what
disturbed the machine in that round disturbed both.
"""

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path
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


def add_output_options(parser: argparse.ArgumentParser) -> None:
    """What `put_out` reads."""
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every value here")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables here")


def put_out(series: list[Series], bars: list[Bar], facts: dict[str, str], options: argparse.Namespace) -> None:
    """Print the medians and verdicts, and write the files that `options` ask for."""
    verdicts = judge(series, bars)
    print(f"\nMedians of {len(series[0].values)} rounds (min to max)\n{text_table(series)}\n")
    print("\n".join(map(str, verdicts)))
    if options.json:
        options.json.write_text(json.dumps(as_json(series, verdicts, facts), indent=1) + "\n", encoding="utf-8")
    if options.markdown:
        options.markdown.write_text(markdown(series, verdicts, facts), encoding="utf-8")
