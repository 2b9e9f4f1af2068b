"""The engine processes of this user that run now, whatever their settings: how they are, and their end. No torch.

Nothing here starts a process, or keeps one: no lease is taken.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from mp13.errors import Mp13Error
from mp13.service.client import EngineClient
from mp13.service.endpoint import address_at, places
from mp13.service.hold import EngineRecord, record_of
from mp13.service.leftovers import remove
from mp13.service.schema import Health

_VISIT_S = 2.0  # to answer how it is
_END_S = 5.0  # to end by itself; it takes half of that in the middle of a long step
_POLL_S = 0.05


@dataclass(frozen=True)
class EngineProcess:
    """One that runs. `health` is None while it does not answer: it has just begun, or it is deep in a load."""

    place: Path
    record: EngineRecord
    health: Health | None


async def running() -> list[EngineClient]:
    """A client of each engine process that is ready. It may end under them. Close them.

    Raises:
        ConfigError: the runtime folder is not private.
    """
    return [client for client in await asyncio.gather(*map(_ready_client, places())) if client is not None]


async def engine_processes() -> list[EngineProcess]:
    """All that run, oldest first.

    Raises:
        ConfigError: the runtime folder is not private.
    """
    found = [process for process in await asyncio.gather(*map(_visit, places())) if process is not None]
    return sorted(found, key=lambda process: process.record.started_at)


async def stop(process: EngineProcess, reason: str) -> bool:
    """End it, and return when it has ended: whether by itself, its chats keeping what they have and hearing the reason.
    One that does not is killed.
    """
    with contextlib.suppress(Mp13Error, OSError, ValueError, TimeoutError):
        async with _client(process.place) as client, asyncio.timeout(_VISIT_S):
            await client.stop(reason)
    for _ in range(round(_END_S / _POLL_S)):
        if process.record.process is None:
            return True
        await asyncio.sleep(_POLL_S)
    process.record.kill()
    await asyncio.to_thread(remove, process.place, process.record.pid)
    while process.record.process is not None:
        await asyncio.sleep(_POLL_S)
    return False


async def _visit(place: Path) -> EngineProcess | None:
    try:
        record = record_of(place)
    except (OSError, ValueError):
        return None
    health = await _health(place) if record.process is not None else None
    return None if record.process is None else EngineProcess(place, record, health)


async def _health(place: Path) -> Health | None:
    with contextlib.suppress(Mp13Error, OSError, ValueError, TimeoutError):
        async with _client(place) as client, asyncio.timeout(_VISIT_S):
            return await client.health()
    return None


async def _ready_client(place: Path) -> EngineClient | None:
    health = await _health(place)
    if health is None or health.status != "ready":
        return None
    with contextlib.suppress(OSError, ValueError):
        return EngineClient(address_at(place))
    return None


@contextlib.asynccontextmanager
async def _client(place: Path) -> AsyncIterator[EngineClient]:
    client = EngineClient(address_at(place))
    try:
        yield client
    finally:
        await client.close()
