"""Merging, from the side that must not load torch: a process of its own does the work in a hidden folder beside the new
one, which appears under its name when everything is done and checked, or not at all.
"""

import contextlib
import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import mp13
from mp13.engine.merging.request import METHODS, MergeReport, MergeRequest
from mp13.errors import ConfigError, Mp13Error, error_from_wire
from mp13.library.notes import write_notes
from mp13.library.placing import MERGES

__all__ = ["METHODS", "MergeReport", "MergeRequest", "merge"]

OnProgress = Callable[[str, float | None], None]  # (stage, how much of it is done if that is known)


def merge(request: MergeRequest, on_progress: OnProgress = lambda stage, fraction: None) -> MergeReport:
    """Make the folder `request.out` and say how far it is from the live mix. Blocks; an exception from `on_progress`
    ends the work.

    Raises:
        ConfigError: the folder exists or cannot be made. ModelError, AdapterError, MixError: the mix cannot be merged.
    """
    out = Path(request.out).expanduser().absolute()
    if out.exists():
        raise ConfigError(f"{out} exists; choose another name, or remove it first")
    staging = out.with_name(f"{MERGES}{uuid.uuid4().hex[:12]}")
    try:
        staging.mkdir(parents=True)
        report = _run(dataclasses.replace(request, out=str(staging)), on_progress)
        write_notes(staging, _notes(request, report))
        staging.rename(out)
    except OSError as error:
        raise ConfigError(f"{out} cannot be written ({error.strerror or error}); choose another folder") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return dataclasses.replace(report, path=str(out))


def _run(request: MergeRequest, on_progress: OnProgress) -> MergeReport:
    with tempfile.TemporaryFile() as diagnostics, _spawn(diagnostics) as process:
        assert process.stdin is not None and process.stdout is not None
        message: dict[str, Any] = {}
        try:
            with contextlib.suppress(BrokenPipeError), process.stdin:  # a dead process is told by its silence
                json.dump(dataclasses.asdict(request), process.stdin)
            for line in process.stdout:
                message = json.loads(line)
                if "error" in message:
                    raise error_from_wire(message["error"], message["message"])
                if "stage" in message:
                    on_progress(message["stage"], message["fraction"])
            process.wait()  # until then it may hold files open, or have something to say
        finally:
            process.kill()
        if "report" in message:
            return _report(message["report"])
        raise Mp13Error(f"the merging process ended without a result{_last_line(diagnostics)}")


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


def _spawn(diagnostics: IO[bytes]) -> "subprocess.Popen[str]":
    package_root = str(Path(mp13.__file__).parents[1])  # so that a checkout's process runs the checkout
    path = os.pathsep.join(filter(None, (package_root, os.environ.get("PYTHONPATH"))))
    return subprocess.Popen(
        # -P: what lies in the working directory, maybe a cloned repository, cannot be imported
        [sys.executable, "-P", "-m", "mp13.engine.merging"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=diagnostics,
        env={**os.environ, "PYTHONPATH": path},
        encoding="utf-8",
    )


def _last_line(diagnostics: IO[bytes]) -> str:
    """In brackets, what the process said last; nothing if it said nothing."""
    diagnostics.seek(0)
    lines = diagnostics.read().decode(errors="replace").split("\n")
    return next((f" ({line.strip()})" for line in reversed(lines) if line.strip()), "")
