"""An engine process as others see it: the record beside its socket, and each chat's hold on that.

A hold is a lock that the system gives back however its chat dies. It tells the last chat that nobody else is there,
also when the process, deep in a load, cannot. The leases that the process itself knows are lease.py's.
"""

import sys
from contextlib import suppress
from pathlib import Path

import psutil
from pydantic import BaseModel, ConfigDict

from mp13.errors import ConfigError
from mp13.service.endpoint import publish

_SAME_START_S = 5.0  # the system's clock may have been set since


class EngineRecord(BaseModel):
    """Which process answers at a place. Written by the chat that started it."""

    model_config = ConfigDict(frozen=True)
    pid: int
    started_at: float  # seconds since 1970, as the system tells: a pid is used again some day
    model: str
    log: Path

    @property
    def process(self) -> psutil.Process | None:
        """None when it has ended."""
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(self.pid)
            is_it = abs(process.create_time() - self.started_at) < _SAME_START_S
            return process if is_it and process.status() != psutil.STATUS_ZOMBIE else None
        return None

    def kill(self) -> None:
        with suppress(psutil.NoSuchProcess):
            if (process := self.process) is not None:
                process.kill()


def record_of(place: Path) -> EngineRecord:
    """Raises OSError or ValueError when there is none."""
    return EngineRecord.model_validate_json(_beside(place).read_bytes())


def write_record(place: Path, pid: int, model: str, log: Path) -> None:
    """Of the process `pid`, which is not yet waited for.

    Raises:
        ConfigError: the folder cannot be written.
    """
    started_at = psutil.Process(pid).create_time()
    try:
        publish(EngineRecord(pid=pid, started_at=started_at, model=model, log=log), _beside(place))
    except OSError as error:
        raise ConfigError(
            f"the runtime folder {place.parent} cannot be written ({error.strerror}); make room there, or set "
            "XDG_RUNTIME_DIR to a folder of your own"
        ) from error


def remove_record(place: Path) -> None:
    _beside(place).unlink(missing_ok=True)


def _beside(place: Path) -> Path:
    return place.with_suffix(".process")


class Hold:
    """Raises OSError or ValueError when no process is recorded at `place`, or its last chat is just ending it."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self._file = _beside(place).open("rb")
        try:
            self.record = EngineRecord.model_validate_json(self._file.read())
            _lock(self._file.fileno(), alone=False)
        except BaseException:
            self._file.close()
            raise

    def take_alone(self) -> bool:
        """Whether no other chat holds the process. From then on none can. Never on systems without such locks."""
        with suppress(OSError):
            return _lock(self._file.fileno(), alone=True)
        return False

    def close(self) -> None:
        self._file.close()


def _lock(fd: int, *, alone: bool) -> bool:
    """Raises OSError when others stand against it; False where the system has no locks that several can share."""
    if sys.platform == "win32":
        return False
    import fcntl

    fcntl.flock(fd, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    return True
