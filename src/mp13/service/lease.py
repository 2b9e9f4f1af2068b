"""Who still needs the engine process: knows the leases that chats hold and says when the last one is gone.

A chat holds its lease as an open connection, so the system gives it back however the chat dies.
"""

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

FIRST_LEASE_S = 1.5  # for the chat that started the process; its connection waits on the socket from the beginning
GRACE_S = 1.0  # for the next chat, after the last one went


class Leases:
    """To be used on one event loop."""

    def __init__(self) -> None:
        self._holders: Counter[str] = Counter()
        self._held = asyncio.Event()
        self._free = asyncio.Event()

    @property
    def num_holders(self) -> int:
        return len(self._holders)

    @contextmanager
    def hold(self, holder: str = "") -> Iterator[None]:
        """A lease; `holder` names the chat, which may hold several."""
        self._holders[holder] += 1
        self._held.set()
        self._free.clear()
        try:
            yield
        finally:
            self._holders -= Counter([holder])
            if not self._holders:
                self._held.clear()
                self._free.set()

    async def abandoned(self) -> None:
        """Return when nobody came at first, or when nobody came after the last one went."""
        grace = FIRST_LEASE_S
        while await self._comes(grace):
            await self._free.wait()
            grace = GRACE_S

    async def _comes(self, within_s: float) -> bool:
        try:
            async with asyncio.timeout(within_s):
                await self._held.wait()
        except TimeoutError:
            pass
        return self._held.is_set()
