"""Work that needs neither the model nor its thread, such as writing files, on a thread of its own."""

from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

_T = TypeVar("_T")
_WAIT_S = 0.005


def aside(work: Callable[[], _T]) -> Generator[None, None, _T]:
    """Comes back every few milliseconds until `work` is done, and then gives or raises what it did. What it reads must
    not change meanwhile."""
    with ThreadPoolExecutor(1, "mp13-aside") as pool:
        done = pool.submit(work)
        while wait([done], timeout=_WAIT_S).not_done:
            yield
    return done.result()
