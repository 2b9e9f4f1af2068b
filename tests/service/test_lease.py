"""When an engine process may end."""

import asyncio
import time

import pytest

from mp13.service import lease
from mp13.service.lease import Leases


@pytest.fixture(autouse=True)
def short_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "FIRST_LEASE_S", 0.2)
    monkeypatch.setattr(lease, "GRACE_S", 0.1)


async def test_without_a_first_lease_the_process_ends() -> None:
    start = time.monotonic()
    await Leases().abandoned()
    assert 0.2 <= time.monotonic() - start < 1


async def test_it_ends_a_grace_after_the_last_of_several_leases() -> None:
    leases = Leases()
    ended = asyncio.create_task(leases.abandoned())
    with leases.hold():
        with leases.hold():
            await asyncio.sleep(0.3)
        await asyncio.sleep(0.2)
        assert not ended.done()
    last = time.monotonic()
    await ended
    assert 0.1 <= time.monotonic() - last < 1


async def test_a_lease_within_the_grace_keeps_it_alive() -> None:
    leases = Leases()
    ended = asyncio.create_task(leases.abandoned())
    for _ in range(3):
        with leases.hold():
            await asyncio.sleep(0.03)
        await asyncio.sleep(0.05)
    with leases.hold():
        await asyncio.sleep(0.3)
        assert not ended.done()
    await ended


async def test_a_lease_is_given_back_however_its_holder_ends() -> None:
    leases = Leases()

    async def hold() -> None:
        with leases.hold():
            await asyncio.sleep(60)

    holder = asyncio.create_task(hold())
    await asyncio.sleep(0)
    holder.cancel()
    async with asyncio.timeout(2):
        await leases.abandoned()
