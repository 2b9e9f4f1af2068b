"""What an engine process tells all its chats: the latest event of each kind to who comes, and then each change.

How many requests run changes often and is told a few times a second at most. What happens is the host's to say.
"""

import asyncio
from collections.abc import AsyncGenerator
from typing import TypeVar

from mp13.service.schema import BusyEvent, EndedEvent, EngineEvent

_BUSY_S = 0.2  # between two events that tell how busy the engine is
_Event = TypeVar("_Event", bound=EngineEvent)


class News:
    """To be used on the event loop that made it."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._latest: dict[str, EngineEvent] = {}  # by type, in the order in which types came
        self._changed = asyncio.Event()
        self._busy = BusyEvent(running=0, waiting=0)
        self._busy_due: asyncio.TimerHandle | None = None
        self._busy_told_at = 0.0
        self.ended: asyncio.Future[EndedEvent] = self._loop.create_future()

    def tell(self, event: EngineEvent) -> None:
        self._latest[event.type] = event
        self._changed.set()
        self._changed = asyncio.Event()

    def tell_busy(self, event: BusyEvent) -> None:
        """At once, or as soon as the last one is old enough; only what is true then, and only if that is new."""
        self._busy = event
        if self._busy_due is None:
            self._busy_due = self._loop.call_at(self._busy_told_at + _BUSY_S, self._tell_busy)

    def end(self, reason: str) -> None:
        """The last news. A second reason is ignored."""
        if not self.ended.done():
            event = EndedEvent(reason=reason)
            self.ended.set_result(event)
            self.tell(event)

    def latest(self, kind: type[_Event]) -> _Event | None:
        return next((event for event in self._latest.values() if isinstance(event, kind)), None)

    @property
    def busy(self) -> BusyEvent:
        return self._busy

    async def follow(self) -> AsyncGenerator[EngineEvent]:
        """The present state, then each change up to the end; a slow reader misses nothing but what is out of date."""
        told: dict[str, EngineEvent] = {}
        while True:
            changed = self._changed
            for kind, event in list(self._latest.items()):
                if told.get(kind) is not event:
                    told[kind] = event
                    yield event
            if isinstance(told.get("ended"), EndedEvent):
                return
            await changed.wait()

    def _tell_busy(self) -> None:
        self._busy_due, self._busy_told_at = None, self._loop.time()
        if self._busy != (self.latest(BusyEvent) or BusyEvent(running=0, waiting=0)):
            self.tell(self._busy)
