"""Quantizing a model on disk, from the side that must not load torch."""

import dataclasses
from datetime import UTC, datetime
from pathlib import Path

from mp13.engine.quantizing.request import QuantizeReport, QuantizeRequest
from mp13.engine.request import OnProgress
from mp13.library.notes import write_notes
from mp13.library.paths import given_path
from mp13.library.placing import MERGES
from mp13.library.worker import new_folder, run_worker

__all__ = ["QuantizeReport", "QuantizeRequest", "quantize"]


def quantize(request: QuantizeRequest, on_progress: OnProgress = lambda stage, fraction: None) -> QuantizeReport:
    """Make the folder `request.out`, a model with weights in few bits. Blocks; an exception from `on_progress` ends the
    work.

    Raises:
        ConfigError: the folder exists or cannot be made, or the model cannot be quantized so.
        ModelError: the model cannot be read. UnsupportedError: hqq is not installed.
    """
    out = given_path(request.out).absolute()
    with new_folder(out, MERGES) as folder:
        fields = run_worker("mp13.engine.quantizing", dataclasses.replace(request, out=str(folder)), on_progress)
        report = QuantizeReport(**fields)
        model = Path(request.model).name if Path(request.model).is_absolute() else request.model
        description = f"{model} quantized as {report.quantization}"
        write_notes(folder, {"description": description, "added_at": datetime.now(UTC).isoformat(timespec="seconds")})
    return dataclasses.replace(report, path=str(out))
