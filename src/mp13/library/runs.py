"""The training runs that are on disk, as their folders tell of them. Reads records, and changes nothing."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout

from mp13.engine.training.checkpoints import RunFolder
from mp13.engine.training.record import RECORD_FILE, RunRecord
from mp13.errors import ConfigError, TrainingError
from mp13.library.paths import given_path

State = Literal["done", "ended early", "running", "broken off"]


@dataclass(frozen=True)
class TrainingRun:
    """A run as it is at its last record: of the finished adapter, or of the last checkpoint if that is later."""

    name: str
    path: Path
    record: RunRecord
    state: State


@dataclass(frozen=True)
class UnreadableRun:
    name: str
    path: Path
    why: str


def list_runs(folders: Sequence[Path]) -> list[TrainingRun | UnreadableRun]:
    """Every run directly inside `folders`, by name. Raises ConfigError: a folder cannot be read."""
    found: dict[Path, TrainingRun | UnreadableRun] = {}
    for folder in folders:
        try:
            inside = sorted(folder.iterdir()) if folder.is_dir() else []
        except OSError as error:
            raise ConfigError(f"{folder} cannot be read ({error.strerror}); check its permissions") from None
        for path in inside:
            if not path.name.startswith(".") and is_run(path):
                found[path] = _looked_at(path)
    return sorted(found.values(), key=lambda run: run.name)


def find_runs(names: Sequence[str], folders: Sequence[Path]) -> list[TrainingRun]:
    """The runs of these names or folders, in this order.

    Raises:
        ConfigError: one is not there.
        TrainingError: its record cannot be read.
    """
    return [_found(name, folders) for name in names]


def is_run(path: Path) -> bool:
    return path.is_dir() and ((path / RECORD_FILE).is_file() or bool(RunFolder(path).steps()))


def _found(name: str, folders: Sequence[Path]) -> TrainingRun:
    places = [folder / name for folder in folders] if os.path.basename(name) == name else []
    path = next((place for place in (*places, given_path(name)) if is_run(place)), None)
    if path is None:
        known = ", ".join(run.name for run in list_runs(folders)) or "none"
        raise ConfigError(f"there is no training run {name!r}; known are: {known}")
    run = _looked_at(path.absolute())
    if isinstance(run, UnreadableRun):
        raise TrainingError(run.why)
    return run


def _looked_at(path: Path) -> TrainingRun | UnreadableRun:
    try:
        record = _last_record(path)
    except TrainingError as error:
        return UnreadableRun(path.name, path, str(error))
    return TrainingRun(path.name, path, record, _state(path, record))


def _last_record(path: Path) -> RunRecord:
    folder = RunFolder(path)
    records = [RunRecord.read(path)] if (path / RECORD_FILE).is_file() else []
    records += [RunRecord.read(folder.last())] if folder.steps() else []
    return max(records, key=lambda record: record.step)  # of equal ones the finished adapter's


def _state(path: Path, record: RunRecord) -> State:
    if record.step >= record.total_steps and record.from_step:
        return "done"
    if _is_locked(path):
        return "running"
    return "ended early" if record.from_step else "broken off"


def _is_locked(path: Path) -> bool:
    lock = path / "checkpoints" / ".lock"
    if not lock.exists():
        return False
    try:
        with FileLock(lock, timeout=0):
            return False
    except Timeout:
        return True
    except OSError:
        return False
