"""How a chat ends that is told to, by SIGTERM or because its terminal was closed: as when its reader leaves. The answer
is kept as far as it came, and the engine let go. The exit code is the one that a shell gives to such an end.
"""

import asyncio
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from types import FrameType


def end_signals() -> list[int]:
    """Those that this process obeys: under `nohup` it does not end with its terminal."""
    if sys.platform == "win32":
        return []
    return [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) is not signal.SIG_IGN]


def when_told_to_end(end: Callable[[int], object]) -> None:
    """Let the event loop that runs call `end` with the exit code."""
    for number in end_signals():
        asyncio.get_running_loop().add_signal_handler(number, end, 128 + number)


async def unless_told_to_end(work: Coroutine[None, None, None]) -> int:
    """Do `work`, which is cancelled when this process is told to end; returns the exit code."""
    task, codes = asyncio.ensure_future(work), list[int]()

    def end(code: int) -> None:
        if not codes:  # once: what it does on its way out is not to be cancelled, too
            task.cancel()
        codes.append(code)

    when_told_to_end(end)
    try:
        await asyncio.wait({task})
    except asyncio.CancelledError:  # by Ctrl+C
        task.cancel()
        await asyncio.wait({task})
        raise
    if not codes:
        task.result()
    return codes[0] if codes else 0


@contextmanager
def exit_when_told_to_end() -> Iterator[None]:
    """In the main thread, which may wait for a line: SystemExit is raised there."""
    before = {number: signal.getsignal(number) for number in end_signals()}

    def leave(number: int, frame: FrameType | None) -> None:
        for each in before:
            signal.signal(each, signal.SIG_IGN)  # once, as above
        raise SystemExit(128 + number)

    for number in before:
        signal.signal(number, leave)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
