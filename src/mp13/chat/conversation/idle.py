"""Work for the time in which the reader thinks: one thing at once, dropped as soon as anything is wanted."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

from mp13.errors import Mp13Error

_BEFORE_S = 0.1  # a script's next line, or a fast reader's, comes sooner than this


class IdleWork:
    def __init__(self) -> None:
        self._task: asyncio.Task[None] | None = None

    def begin(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do `work` after a moment, instead of what was being done. That it fails is no matter: nobody asked for it."""
        if self._task is not None:
            self._task.cancel()
        self._task = asyncio.create_task(_later(work))

    async def stop(self) -> None:
        """Drop what is being done; when this returns, nothing of it runs."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait({task})


async def _later(work: Callable[[], Awaitable[None]]) -> None:
    await asyncio.sleep(_BEFORE_S)
    with suppress(Mp13Error):
        await work()
