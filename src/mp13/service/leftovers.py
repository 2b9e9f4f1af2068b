"""The files of engine processes that have ended, and the lock under which chats look for one or start it. No torch.

A process removes its own at its end, and who kills one removes those; what the system's end of one leaves goes when the
next engine starts.
"""

import contextlib
from pathlib import Path

from filelock import FileLock, Timeout

from mp13.service.endpoint import places, runtime_dir
from mp13.service.hold import record_of, remove_record

_WAIT_S = 0.5  # a chat that starts an engine meanwhile sweeps for itself


def launch_lock() -> Path:
    """Stays: to remove a lock file while another waits for it would let both in."""
    return runtime_dir() / "launch.lock"


def remove(place: Path, pid: int) -> None:
    """What the process `pid`, which ends, has at `place`, unless that is another's by now."""
    with contextlib.suppress(Timeout, OSError, ValueError), FileLock(launch_lock(), timeout=_WAIT_S, mode=0o600):
        if record_of(place).pid == pid:
            discard(place)


def sweep() -> None:
    """Remove what processes left that are no more. The caller holds the launch lock."""
    for place in places():
        with contextlib.suppress(OSError):
            if not _is_alive(place):
                discard(place)


def _is_alive(place: Path) -> bool:
    try:
        return record_of(place).process is not None
    except (OSError, ValueError):
        return False


def discard(place: Path) -> None:
    """Remove what is at `place`, whosever it is. The caller holds the launch lock."""
    place.unlink(missing_ok=True)
    remove_record(place)
