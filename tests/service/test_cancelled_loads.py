"""A load that nobody waits for any more ends at once, also while a library holds the interpreter of its process."""

import asyncio
from contextlib import aclosing
from functools import partial
from pathlib import Path

import pytest

from mp13.chat.conversation.connection import EngineConnection
from mp13.chat.settings.load import load_settings
from mp13.service import client as client_module
from mp13.service import launcher, processes
from mp13.service.client import EngineClient
from tests.service.conftest import FAKE, Chats, answer, engine_pids, is_alive, seconds_until_gone
from tests.service.test_lifetime import a_chat, read_until

AT_ONCE_S = 2.0


async def pid_of(client: EngineClient, stage: str = "") -> int:
    """The engine's pid, once its load has come to `stage`."""
    async with asyncio.timeout(10):
        async with aclosing(client.events()) as events:
            async for event in events:
                if stage in getattr(event, "stage", ""):
                    break
    assert client._hold is not None
    return client._hold.record.pid


async def stuck(chats: Chats) -> tuple[EngineClient, int]:
    """A client of an engine that holds its interpreter for good."""
    client = await chats.open("stuck")
    pid = await pid_of(client, "reading weights")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(10):
            while True:
                async with asyncio.timeout(0.3):
                    await client.health()
    return client, pid


async def reading_weights(answers: bool) -> None:
    """Return when the only engine process does so, and answers meanwhile, or holds its interpreter."""
    stage = ""
    async with asyncio.timeout(20):
        while True:
            [process] = await processes.engine_processes()
            stage = process.health.stage if process.health else stage
            if stage == "reading weights" and answers == (process.health is not None):
                return
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("model", ["slow", "stuck"])
async def test_closing_the_only_client_ends_a_load_at_once(chats: Chats, model: str) -> None:
    client = await chats.open(model)
    pid = await pid_of(client, "reading weights")
    await asyncio.sleep(0.2)
    await client.close()
    assert await asyncio.to_thread(seconds_until_gone, pid) < AT_ONCE_S


async def test_a_load_goes_on_while_another_chat_waits_for_it(chats: Chats) -> None:
    one, two = await chats.open("slow"), await chats.open("slow")
    pid = await pid_of(one)
    await one.close()
    await asyncio.sleep(0.5)
    assert is_alive(pid)
    assert (await two.health()).status == "loading"
    await two.close()
    assert await asyncio.to_thread(seconds_until_gone, pid) < AT_ONCE_S


async def test_who_comes_while_the_last_chat_ends_a_load_gets_an_engine_of_his_own(
    chats: Chats, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, pid = await stuck(chats)
    monkeypatch.setattr(client_module, "_UP_S", 1.0)
    closing = asyncio.create_task(client.close())
    await asyncio.sleep(0.1)
    other = await chats.open("stuck")
    assert await pid_of(other) != pid
    await closing
    assert await asyncio.to_thread(seconds_until_gone, pid) < AT_ONCE_S


async def test_an_engine_that_is_up_outlives_its_last_chat_for_the_next_one(chats: Chats) -> None:
    client = await chats.open()
    await answer(client, "hi")
    pid = (await client.health()).pid
    await client.close()
    again = await chats.open()
    assert (await again.health()).pid == pid


@pytest.mark.parametrize("model", ["slow", "stuck"])
def test_killing_the_chat_ends_its_load_at_once(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_VISIT_S", 0.5)
    with a_chat(model, "idle") as (chat, engine):
        read_until(chat, "False")
        asyncio.run(reading_weights(answers=model != "stuck"))
        chat.kill()
        assert seconds_until_gone(engine) < AT_ONCE_S


async def test_a_load_outlives_the_chat_that_began_it_where_another_waits(chats: Chats) -> None:
    with a_chat("slow", "idle") as (chat, engine):
        await asyncio.to_thread(read_until, chat, "False")
        client = await chats.open("slow")
        assert await pid_of(client) == engine
        chat.kill()
        await asyncio.to_thread(chat.wait)
        await asyncio.sleep(0.5)
        assert is_alive(engine)


async def test_a_switch_of_models_that_is_given_up_leaves_no_process(
    runtime: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = EngineConnection(partial(launcher.connect, engine=FAKE))
    settings = load_settings({"model": "org/stuck"})
    monkeypatch.setattr(type(settings), "engine_config", lambda self: launcher.EngineConfig("stuck"))
    async with aclosing(connection.start(settings)) as events:
        async for event in events:
            if getattr(event, "stage", "") == "reading weights":
                break
    [pid] = engine_pids(runtime.parent) or [0]
    assert await asyncio.to_thread(seconds_until_gone, pid) < AT_ONCE_S
    assert connection.state.phase == "none"
