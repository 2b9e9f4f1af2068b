"""Training runs as people read them: a list, and what sets some of them apart."""

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from mp13.chat.library.shown import table
from mp13.chat.library.train_view import duration
from mp13.chat.text import one_line, printable
from mp13.engine.training.record import RunRecord
from mp13.library.runs import TrainingRun, UnreadableRun

_BARS = "▁▂▃▄▅▆▇█"
_WIDE, _NARROW = 60, 16  # points of a curve


def runs_table(runs: Sequence[TrainingRun | UnreadableRun]) -> str:
    rows = [_row(run) for run in runs if isinstance(run, TrainingRun)]
    broken = [one_line(f"{run.name}: {run.why}") for run in runs if isinstance(run, UnreadableRun)]
    return "\n".join([table(rows)] * bool(rows) + broken)


def compared(runs: Sequence[TrainingRun]) -> str:
    """The settings that differ, how it went, and the curves, all drawn to one scale."""
    count = Counter(run.name for run in runs)
    names = [run.name if count[run.name] == 1 else str(run.path) for run in runs]
    facts = [_facts(run.record) for run in runs]
    differing = [key for key in facts[0] if len({one[key] for one in facts}) > 1]
    rows = [{"": key} | {name: one[key] for name, one in zip(names, facts, strict=True)} for key in differing]
    rows += [
        {"": key} | {name: told(run) for name, run in zip(names, runs, strict=True)} for key, told in _RESULTS.items()
    ]
    return "\n".join([table([row for row in rows if any(row[name] for name in names)]), *_curves(names, runs)])


def _curves(names: Sequence[str], runs: Sequence[TrainingRun]) -> list[str]:
    lines, width = [], max(map(len, names))
    for what, points in (("loss", _losses), ("eval", _evals)):
        curves = [points(run.record) for run in runs]
        if any(curves):
            least, most = min(min(c) for c in curves if c), max(max(c) for c in curves if c)
            lines += ["", f"{what}, from {least:.4f} to {most:.4f}"]
            lines += [
                printable(f"  {name:<{width}}  {sparkline(curve, least, most, _WIDE)}").rstrip()
                for name, curve in zip(names, curves, strict=True)
            ]
    return lines


def run_json(run: TrainingRun | UnreadableRun) -> dict[str, Any]:
    if isinstance(run, UnreadableRun):
        return {"name": run.name, "path": str(run.path), "problem": run.why}
    record = run.record
    best = record.best
    return {
        "name": run.name, "path": str(run.path), "state": run.state, "step": record.step,
        "total_steps": record.total_steps, "adapter_step": record.from_step or None,
        "first_loss": record.losses[0][1] if record.losses else None,
        "last_loss": record.losses[-1][1] if record.losses else None,
        "best_eval": None if best is None else {"step": best[0], "loss": best[1]},
        "tokens": record.tokens, "seconds": record.seconds, "model": record.origin.model,
        "base_digest": record.origin.base_digest, "data_digest": record.data_digest, "config": record.config.to_json(),
        "losses": record.losses, "evals": record.evals,
    }  # fmt: skip


def sparkline(points: Sequence[float], least: float, most: float, width: int) -> str:
    """A character a point, or of many points the mean of those that share one."""
    if not points:
        return ""
    width = min(width, len(points))
    edges = [len(points) * i // width for i in range(width + 1)]
    means = [sum(points[a:b]) / (b - a) for a, b in pairwise(edges)]
    scale = (len(_BARS) - 1) / (most - least) if most > least else 0.0
    return "".join(_BARS[round((min(most, max(least, mean)) - least) * scale)] for mean in means)


def _row(run: TrainingRun) -> dict[str, str]:
    record = run.record
    losses = _losses(record)
    return {
        "NAME": run.name,
        "STATE": run.state,
        "STEPS": f"{record.step:,}/{record.total_steps:,}",
        "LOSS": f"{losses[0]:.3f} → {losses[-1]:.3f}" if losses else "",
        "CURVE": sparkline(losses, min(losses), max(losses), _NARROW) if losses else "",
        "EVAL": "" if record.best is None else f"{record.best[1]:.3f}",
        "TOKENS/S": _speed(record),
        "KIND": f"{record.config.kind} {record.config.rank}",
        "BASE": record.origin.model,
    }


def _facts(record: RunRecord) -> dict[str, str]:
    """All that a run is made of, as text."""
    origin = record.origin
    digests = {"base digest": origin.base_digest, "template": origin.template_digest, "data": record.data_digest}
    settings = {name: _text(value) for name, value in record.config.to_json().items()}
    return {"model": origin.model} | {name: value[:12] for name, value in digests.items()} | settings


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _losses(record: RunRecord) -> list[float]:
    return [loss for _, loss, _ in record.losses]


def _evals(record: RunRecord) -> list[float]:
    return [loss for _, loss in record.evals]


def _number(losses: Sequence[tuple[int, float, float]], place: int) -> str:
    return f"{losses[place][1]:.4f}" if losses else ""


def _speed(record: RunRecord) -> str:
    return f"{record.tokens / record.seconds:,.0f}" if record.seconds else ""


_RESULTS: dict[str, Callable[[TrainingRun], str]] = {
    "state": lambda run: run.state,
    "steps": lambda run: f"{run.record.step:,}/{run.record.total_steps:,}",
    "first loss": lambda run: _number(run.record.losses, 0),
    "last loss": lambda run: _number(run.record.losses, -1),
    "best eval": lambda run: "" if run.record.best is None else f"{run.record.best[1]:.4f}",
    "tokens/s": lambda run: _speed(run.record),
    "time": lambda run: duration(run.record.seconds),
}
