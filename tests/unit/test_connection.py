"""The state of the engine that a screen shows, as a chat's connection to it finds out."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path

import pytest
import pytest_asyncio

from mp13.chat.conversation.connection import EngineConnection, EngineState
from mp13.chat.settings.load import load_settings
from mp13.chat.settings.schema import Settings
from mp13.errors import AdapterError, OutOfMemory
from mp13.service.client import EngineGone, EngineStopped
from mp13.service.schema import AdapterInfo, BusyEvent, EndedEvent, FailedEvent
from tests.fakes.fake_client import FakeHost


class Seen:
    """A connection to a scripted host, and every state that it was in."""

    def __init__(self, folder: Path) -> None:
        self.host = FakeHost()
        self.connection = EngineConnection(self.host)  # type: ignore[arg-type]
        self.states: list[EngineState] = []
        self.connection.on_state = self.states.append
        self._folder = folder

    def settings(self, model: str = "model", **values: str) -> Settings:
        (self._folder / model).mkdir(exist_ok=True)
        return load_settings({"model": str(self._folder / model), **values})

    async def start(self, model: str = "model", **values: str) -> None:
        async for _ in self.connection.start(self.settings(model, **values)):
            pass

    @property
    def phases(self) -> list[str]:
        return [state.phase for state in self.states]

    async def until(self, is_so: Callable[[EngineState], bool]) -> EngineState:
        async with asyncio.timeout(5):
            while not is_so(self.connection.state):
                await asyncio.sleep(0.001)
        return self.connection.state


@pytest_asyncio.fixture
async def seen(tmp_path: Path) -> AsyncIterator[Seen]:
    opened = Seen(tmp_path)
    yield opened
    await opened.connection.close()


async def test_an_engine_that_comes_up_is_loading_then_ready_and_after_closing_none(seen: Seen) -> None:
    assert seen.connection.state == EngineState()
    await seen.start()
    assert seen.states[0].phase == "loading"
    assert seen.states[-2:] == [EngineState("loading", "reading weights", 0.5), EngineState("ready")]
    await seen.connection.close()
    assert seen.connection.state == EngineState()


async def test_the_requests_of_all_chats_show_that_it_is_busy(seen: Seen) -> None:
    await seen.start()
    for running, waiting in ((2, 1), (0, 0)):
        seen.host.clients[0].tell(BusyEvent(running=running, waiting=waiting))
        state = await seen.until(lambda state, running=running: state.running == running)
        assert state == EngineState("ready", running=running, waiting=waiting)


async def test_an_engine_that_does_not_come_up_has_failed_and_says_why(seen: Seen) -> None:
    await seen.start("broken")
    assert seen.phases[-1] == "failed"
    assert str(seen.connection.state.error) == "it has no weights; choose another model"


async def test_one_that_lacks_memory_says_so_by_its_kind(seen: Seen) -> None:
    starting = seen.connection.start(seen.settings())
    seen.host.waits = asyncio.Event()
    await anext(starting)
    seen.host.clients[0].fails = FailedEvent(code="OutOfMemory", message="cpu ran out of memory")
    seen.host.waits.set()
    async for _ in starting:
        pass
    assert isinstance(seen.connection.state.error, OutOfMemory)


async def test_an_engine_that_dies_has_ended_and_starts_again_as_loading(seen: Seen) -> None:
    await seen.start()
    seen.host.clients[0].dead.set()
    state = await seen.until(lambda state: state.phase == "ended")
    assert type(state.error) is EngineGone
    await seen.start()
    assert seen.phases[-4:] == ["ended", "loading", "loading", "ready"]


async def test_an_engine_that_was_stopped_says_by_what(seen: Seen) -> None:
    await seen.start()
    seen.host.clients[0].tell(EndedEvent(reason="it was stopped with `mp13 stop`"))
    state = await seen.until(lambda state: state.phase == "ended")
    assert isinstance(state.error, EngineStopped)
    assert "`mp13 stop`" in str(state.error)
    assert seen.connection.engine is None


async def test_a_call_that_found_it_gone_leaves_the_reason_in_the_state(seen: Seen) -> None:
    await seen.start()
    lost = EngineGone("the engine process has ended")
    await seen.connection.close(lost)
    assert seen.connection.state == EngineState("ended", error=lost)


async def test_a_start_that_is_given_up_leaves_no_engine_and_no_state(seen: Seen) -> None:
    seen.host.waits = asyncio.Event()
    async with aclosing(seen.connection.start(seen.settings())) as starting:
        await anext(starting)
        assert seen.connection.state.phase == "loading"
    assert seen.connection.state == EngineState()
    assert seen.host.clients[0].closed


@pytest.mark.parametrize(
    ("wanted", "sentence"),
    [
        ("new@3", "there is no 'new@3' in the engine; give new@6, new@9"),
        ("gone@latest", "it has no version of gone now: give an adapter that is on disk"),
    ],
)
async def test_a_version_that_is_not_there_is_told_with_what_is(seen: Seen, wanted: str, sentence: str) -> None:
    await seen.start()
    seen.connection.adapters = [AdapterInfo(name, "0" * 64, "lora", 4, (), 1) for name in ("new@6", "new@9")]
    await seen.connection.load(["new@latest", "new@6"], [], fresh=True)
    with pytest.raises(AdapterError) as refused:
        await seen.connection.load([wanted], [], fresh=False)
    assert sentence in str(refused.value)
