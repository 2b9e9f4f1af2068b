"""A read that is woken after its end says nothing; every other alarm of asyncio is still heard."""

import asyncio

import pytest

from mp13.service.late_reads import pass_over


@pytest.mark.parametrize(("result", "is_heard"), [(None, False), (1, True)])
async def test_only_the_late_wake_of_a_read_is_passed_over(
    result: object, is_heard: bool, caplog: pytest.LogCaptureFixture
) -> None:
    pass_over()
    loop = asyncio.get_running_loop()
    read: asyncio.Future[object] = loop.create_future()
    read.cancel()
    loop.call_soon(read.set_result, result)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert bool(caplog.records) == is_heard
