"""Ties an engine process to the chat that started it while it loads, deep in libraries that let nothing else here run:
only the system can end it then, when the chat dies. Later the leases do.
"""

import ctypes
import signal
import sys

_PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """From now on the system kills this process when the thread that started it ends. Linux alone can do so."""
    _set(signal.SIGKILL)


def outlive_parent() -> None:
    _set(0)


def _set(number: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(number))
