"""Adapters and models as text and as JSON, the same on the command line and behind slash commands."""

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from mp13.chat.library.shelf import Shelved
from mp13.chat.text import one_line
from mp13.library.adapters import AdapterOnDisk
from mp13.library.fit import Fit
from mp13.library.models import ModelOnDisk
from mp13.service.schema import NO_EFFECT

STATES = {"slot": "in a slot", "memory": "in memory", "disk": "on disk", "unfit": "unfit"}
_AGES = ((365 * 86400, "y"), (30 * 86400, "mo"), (86400, "d"), (3600, "h"), (60, "min"))
_LEAVING = ("DIGEST", "TARGETS", "AGE", "BASE", "TAGS")  # in this order, where there is no room for all
_DIGEST = 8  # characters of a digest in a list
_WIDEST = 48  # characters of a cell


def adapter_table(shelf: Sequence[Shelved], width: int | None = None) -> str:
    """A line each, of `width` characters if that can be; under them, why one is unfit and what to do."""
    rows = [
        {
            "NAME": one.adapter.name,
            "STATE": STATES[one.state] + (", changed on disk" if one.changed else ""),
            "KIND": one.adapter.kind,
            "RANK": str(one.adapter.rank or ""),
            "SIZE": size(one.adapter.size_bytes),
            "EFFECT": effect(one.adapter.effect, short=True),
            "BASE": one.adapter.base_model or "",
            "AGE": age(one.adapter.modified),
            "DIGEST": (one.adapter.digest or "")[:_DIGEST],
            "TARGETS": " ".join(target.removesuffix("_proj") for target in one.adapter.targets),
            "TAGS": " ".join(one.adapter.notes.tags),
        }
        for one in shelf
    ]
    for leaving in _LEAVING:
        if width is None or max(map(len, table(rows).splitlines())) <= width:
            break
        rows = [{column: cell for column, cell in row.items() if column != leaving} for row in rows]
    reasons = [f"{one.adapter.name}: {one.adapter.unfit}" for one in shelf if one.adapter.unfit]
    return table(rows) + "".join(f"\n{one_line(reason)}" for reason in reasons)


def adapter_lines(one: Shelved) -> str:
    """All that is known of an adapter, a line each."""
    adapter, notes = one.adapter, one.adapter.notes
    facts = {
        "name": adapter.name,
        "state": STATES[one.state],
        "unfit": adapter.unfit,
        "changed": "on disk, after an engine loaded it; /reload picks it up" if one.changed else None,
        "kind": f"{adapter.kind}, rank {adapter.rank}" if adapter.rank else adapter.kind,
        "targets": " ".join(adapter.targets),
        "size": size(adapter.size_bytes),
        "effect": effect(adapter.effect),
        "base": adapter.base_model,
        "digest": adapter.digest,
        "modified": when(adapter.modified) if adapter.modified else None,
        "tags": " ".join(notes.tags),
        "about": notes.description,
        "source": notes.source,
        "revision": notes.revision,
        "added": notes.added_at,
        "path": str(adapter.path),
    }
    width = max(map(len, facts))
    return "\n".join(f"{name:<{width}}  {one_line(value)}" for name, value in facts.items() if value)


def adapter_json(one: Shelved) -> dict[str, Any]:
    return {"name": one.adapter.name, "state": one.state, "loaded": one.loaded, "changed_on_disk": one.changed} | (
        _adapter_facts(one.adapter)
    )


def _adapter_facts(adapter: AdapterOnDisk) -> dict[str, Any]:
    return {
        "unfit": adapter.unfit,
        "kind": adapter.kind,
        "rank": adapter.rank,
        "targets": list(adapter.targets),
        "size_bytes": adapter.size_bytes,
        "base_model": adapter.base_model,
        "digest": adapter.digest,
        "modified": when(adapter.modified) if adapter.modified else None,
        "age_s": round(max(0.0, time.time() - adapter.modified)) if adapter.modified else None,
        "tags": list(adapter.notes.tags),
        "description": adapter.notes.description,
        "source": adapter.notes.source,
        "revision": adapter.notes.revision,
        "added_at": adapter.notes.added_at,
        "effect": adapter.effect,
        "path": str(adapter.path),
    }


def added(adapter: AdapterOnDisk) -> str:
    return one_line(f"added {adapter.name} ({adapter.kind}, {size(adapter.size_bytes)}) in {adapter.path}")


def removed(thing: AdapterOnDisk | ModelOnDisk) -> str:
    return one_line(f"removed {thing.name}, {size(thing.size_bytes)}")


def tagged(adapter: AdapterOnDisk) -> str:
    tags = " ".join(adapter.notes.tags)
    return one_line(f"{adapter.name} has the tags {tags}" if tags else f"{adapter.name} has no tags")


def model_table(models: Sequence[ModelOnDisk]) -> str:
    rows = [
        {
            "NAME": model.name,
            "ARCHITECTURE": model.architecture,
            "SIZE": size(model.size_bytes),
            "DTYPE": " ".join(filter(None, (model.dtype, model.quantization))),
            "REVISION": (model.revision or "")[:_DIGEST],
            "AGE": age(model.modified),
            "PLACE": model.place,
        }
        for model in models
    ]
    reasons = [f"{model.name}: {model.unfit}" for model in models if model.unfit]
    return table(rows) + "".join(f"\n{one_line(reason)}" for reason in reasons)


def fit_table(found: Mapping[str, Fit], wanted: int | None) -> str:
    """A line for each quantization: what it takes, and how long a context then fits."""
    return table(
        [
            {
                "QUANTIZATION": name,
                "WEIGHTS": size(fit.weights),
                "ADAPTERS": size(fit.adapters),
                "STEP": size(fit.activations),
                "CACHE": size(fit.cache),
                "TOTAL": size(fit.total),
                "CONTEXT": f"{fit.longest:,}" if fit.longest >= 2 else "does not fit",
                "": "" if fit.holds(wanted) or fit.longest < 2 else f"not {wanted:,}",
            }
            for name, fit in found.items()
        ]
    )


def fit_json(fit: Fit, wanted: int | None) -> dict[str, Any]:
    return {
        "fits": fit.holds(wanted), "longest": fit.longest, "cache_tokens": fit.cache_tokens, "weights": fit.weights,
        "adapters": fit.adapters, "activations": fit.activations, "cache": fit.cache, "total": fit.total,
    }  # fmt: skip


def model_json(model: ModelOnDisk) -> dict[str, Any]:
    return {
        "name": model.name,
        "place": model.place,
        "unfit": model.unfit,
        "architecture": model.architecture,
        "size_bytes": model.size_bytes,
        "dtype": model.dtype,
        "quantization": model.quantization,
        "revision": model.revision,
        "modified": when(model.modified),
        "path": str(model.path),
    }


def effect(nats: float | None, short: bool = False) -> str:
    """How far an adapter moves the base, for a reader."""
    if nats is None:
        return ""
    if nats < NO_EFFECT:
        return "none" if short else "changes nothing measurable"
    return f"{nats:.2g}" if short else f"{nats:.3g} nats (mean KL from the base on a probe prompt)"


def size(num_bytes: int) -> str:
    for unit, least in (("GB", 1e9), ("MB", 1e6)):
        if num_bytes >= least:
            return f"{num_bytes / least:.1f} {unit}"
    return f"{num_bytes / 1e3:.1f} kB" if num_bytes >= 50 else f"{num_bytes} B"


def age(modified: float) -> str:
    """How long ago, in its largest unit."""
    if not modified:
        return ""
    seconds = time.time() - modified
    return next((f"{int(seconds // unit)} {name}" for unit, name in _AGES if seconds >= unit), "now")


def when(modified: float) -> str:
    return datetime.fromtimestamp(modified, UTC).isoformat(timespec="seconds")


def table(rows: Sequence[dict[str, str]]) -> str:
    """Columns that nobody fills are left out."""
    columns = [name for name in rows[0] if any(row[name] for row in rows)]
    lines = [columns, *([_cell(row[name]) for name in columns] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(columns))]
    padded = ("  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)) for line in lines)
    return "\n".join(line.rstrip() for line in padded)


def _cell(text: str) -> str:
    text = one_line(text)
    return text if len(text) <= _WIDEST else text[: _WIDEST - 1] + "…"
