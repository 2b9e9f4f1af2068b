"""Merging, from the side that must not load torch."""

import dataclasses
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mp13.engine.merging.request import METHODS, MergeReport, MergeRequest
from mp13.engine.request import OnProgress
from mp13.library.notes import write_notes
from mp13.library.paths import given_path
from mp13.library.placing import MERGES
from mp13.library.worker import new_folder, run_worker

__all__ = ["METHODS", "MergeReport", "MergeRequest", "merge"]


def merge(request: MergeRequest, on_progress: OnProgress = lambda stage, fraction: None) -> MergeReport:
    """Make the folder `request.out` and say how far it is from the live mix. Blocks; an exception from `on_progress`
    ends the work.

    Raises:
        ConfigError: the folder exists or cannot be made. ModelError, AdapterError, MixError: the mix cannot be merged.
    """
    out = given_path(request.out).absolute()
    with new_folder(out, MERGES) as folder:
        fields = run_worker("mp13.engine.merging", dataclasses.replace(request, out=str(folder)), on_progress)
        report = _report(fields)
        write_notes(folder, _notes(request, report))
    return dataclasses.replace(report, path=str(out))


def _notes(request: MergeRequest, report: MergeReport) -> dict[str, Any]:
    """Where the new folder comes from, for `mp13.json`: without this machine's paths."""
    return {
        "description": f"{report.mix} merged by {report.method}",
        "added_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "merge": {
            "model": Path(request.model).name if Path(request.model).is_absolute() else request.model,
            "mix": report.mix,
            "method": report.method,
            "members": [{"name": name, "digest": digest, "weight": weight} for name, digest, weight in report.members],
            "max_gap": report.max_gap,
            "mean_kl": report.mean_kl,
        },
    }


def _report(fields: dict[str, Any]) -> MergeReport:
    members = tuple((name, digest, weight) for name, digest, weight in fields.pop("members"))
    return MergeReport(**fields | {"members": members, "warnings": tuple(fields["warnings"])})
