"""What was sent is served one after the other; whatever happens to it is told."""

import asyncio
from contextlib import suppress

from mp13.chat.tui.conductor import Conductor
from mp13.chat.tui.events import AnswerStopped, EntryStarted
from tests.fakes.fake_session import FakeSession


async def test_what_is_stopped_before_it_has_begun_is_told_to_be_over() -> None:
    told = asyncio.Event()
    stopped: list[AnswerStopped] = []

    def hear(event: object) -> None:
        if isinstance(event, EntryStarted):
            asyncio.get_running_loop().call_soon(conductor.cancel)
        elif isinstance(event, AnswerStopped):
            stopped.append(event)
            told.set()

    conductor = Conductor(hear)
    entry = conductor.submit("hello")
    running = asyncio.create_task(conductor.run(FakeSession(["never said"])))
    await asyncio.wait_for(told.wait(), 30)
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    assert [(event.entry, event.partial) for event in stopped] == [(entry, {})]
    assert not conductor.is_busy
