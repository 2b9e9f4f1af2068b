"""An event loop in a thread of its own, so that the main thread can wait for a line and the engine is served meanwhile.

What ends a wait reaches the main thread alone: Ctrl+C as KeyboardInterrupt, a signal to end as SystemExit. At a line it
is just that, in `run` it cancels what runs.
"""

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import TimeoutError as NotYet
from types import TracebackType
from typing import Any, Self, TypeVar

T = TypeVar("T")
_LOOK_S = 0.2  # between two looks for Ctrl+C, where a wait does not end by it


class Background:
    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.run(self._loop.shutdown_asyncgens())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """What `work` gives. KeyboardInterrupt or SystemExit cancels it, and is raised when it has ended."""
        tasks: list[asyncio.Task[Any] | None] = []

        async def noted() -> T:
            tasks.append(asyncio.current_task())
            return await work

        future = asyncio.run_coroutine_threadsafe(noted(), self._loop)
        told: KeyboardInterrupt | SystemExit | None = None
        while True:
            try:
                result = future.result(_LOOK_S)
            except NotYet:
                if future.done():
                    raise
                continue
            except (KeyboardInterrupt, SystemExit) as error:
                told = error
                self._loop.call_soon_threadsafe(lambda: [task.cancel() for task in tasks if task is not None])
                continue
            except BaseException:
                if told is not None:
                    raise told from None
                raise
            if isinstance(told, SystemExit):  # it was done before it was cancelled
                raise told
            return result
