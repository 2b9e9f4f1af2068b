"""What an engine process tells its chats of itself: how busy it is, how it is, and that it ends."""

import asyncio
import os
import signal
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path

import pytest

from mp13.service import news
from mp13.service.client import EngineClient, EngineStopped
from mp13.service.news import News
from mp13.service.schema import AdaptersEvent, BusyEvent, CompareRequest, EndedEvent, EngineEvent, Message, TokenEvent
from tests.service.conftest import Chats, answer, asking, seconds_until_gone

WHY = "it was stopped with `mp13 stop`"


async def partial(client: EngineClient, text: str) -> tuple[list[str], Exception | None]:
    """What an answer says until it ends, and the error that ends it."""
    said: list[str] = []
    try:
        async for event in client.generate(asking(text, max_tokens=100_000)):
            if isinstance(event, TokenEvent):
                said.append(event.text)
    except Exception as error:
        return said, error
    return said, None


class TestBusy:
    async def test_every_chat_hears_how_many_requests_run(self, chats: Chats) -> None:
        one, two = await chats.open(), await chats.open()
        async with aclosing(two.events()) as events, asyncio.timeout(10):
            heard = [event async for event in _until(events, AdaptersEvent)]
            assert not any(isinstance(event, BusyEvent) for event in heard)  # nobody has asked anything yet
            async with aclosing(one.generate(asking("count 1000", max_tokens=1000))) as answering:
                await anext(answering)
                assert await _next_busy(events) == BusyEvent(running=1, waiting=0)
            assert await _next_busy(events) == BusyEvent(running=0, waiting=0)

    async def test_many_changes_are_few_events_and_the_last_one_is_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(news, "_BUSY_S", 0.05)
        told = News()
        heard: list[BusyEvent] = []

        async def listen() -> None:
            heard.extend([event async for event in told.follow() if isinstance(event, BusyEvent)])

        listening = asyncio.create_task(listen())
        for count in range(100):
            told.tell_busy(BusyEvent(running=count, waiting=0))
            await asyncio.sleep(0.001)
        told.tell_busy(BusyEvent(running=7, waiting=1))
        await asyncio.sleep(0.2)
        told.end("it is over")
        await listening
        assert heard[-1] == BusyEvent(running=7, waiting=1)
        assert 2 < len(heard) < 20

    async def test_what_is_as_before_when_it_may_be_told_is_not_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(news, "_BUSY_S", 0.05)
        told = News()
        told.tell_busy(BusyEvent(running=1, waiting=0))
        told.tell_busy(BusyEvent(running=0, waiting=0))
        await asyncio.sleep(0.1)
        assert told.latest(BusyEvent) is None


async def _until(events: AsyncGenerator[EngineEvent], kind: type[EngineEvent]) -> AsyncGenerator[EngineEvent]:
    async for event in events:
        yield event
        if isinstance(event, kind):
            return


async def _next_busy(events: AsyncGenerator[EngineEvent]) -> BusyEvent:
    async for event in events:
        if isinstance(event, BusyEvent):
            return event
    raise AssertionError("unreachable")


class TestHealth:
    async def test_it_tells_what_runs_there_and_for_how_many_chats(self, chats: Chats, tmp_path: Path) -> None:
        client, other = await chats.open(), await chats.open()
        async with aclosing(other.events()) as events:  # a second lease of the same chat
            await anext(events)
            (tmp_path / "pirate").mkdir()
            await client.load_adapter(str(tmp_path / "pirate"))
            async with aclosing(client.generate(asking("count 1000", max_tokens=1000))) as answering:
                await anext(answering)
                health = await other.health()
        assert (health.status, health.model, health.dtype, health.quantization) == ("ready", "fake", "float32", "none")
        assert (health.chats, health.running, health.adapters) == (2, 1, ("pirate",))
        assert health.memory_bytes > 10_000_000
        assert health.gpu_bytes is None
        assert 0 < health.age_s < 60

    async def test_while_it_loads_it_says_how_far_it_is(self, chats: Chats) -> None:
        client = await chats.open("slow", dtype="bfloat16")
        async with asyncio.timeout(10):
            while (health := await client.health()).stage != "reading weights":
                await asyncio.sleep(0.02)
        assert (health.status, health.fraction, health.dtype) == ("loading", 0.0, "bfloat16")

    async def test_one_that_failed_says_why(self, chats: Chats) -> None:
        client = await chats.open("broken")
        async with asyncio.timeout(10):
            while (health := await client.health()).status == "loading":
                await asyncio.sleep(0.02)
        assert (health.status, health.error) == ("failed", "'broken' has no weights; choose another model")


class TestStopping:
    async def test_its_chats_keep_what_was_said_and_hear_why(self, chats: Chats) -> None:
        one, two = await chats.open(), await chats.open()
        pid = (await one.health()).pid
        answering = asyncio.create_task(partial(one, "count 100000"))
        waiting = asyncio.create_task(partial(two, "wait"))
        async with aclosing(two.events()) as events, asyncio.timeout(10):
            assert (await _next_busy(events)).running > 0
            await asyncio.sleep(0.3)
            await two.stop(WHY)
            last = [event async for event in _until(events, EndedEvent)][-1]
            assert last == EndedEvent(reason=WHY)
            with pytest.raises(EngineStopped):
                await anext(events)
        (said, why), (nothing, why_too) = await answering, await waiting
        assert said[:3] == ["0 ", "1 ", "2 "]
        assert nothing == []
        for error in (why, why_too):
            assert isinstance(error, EngineStopped)
            assert str(error) == f"the engine has ended: {WHY}; send the prompt again to start a new one"
        assert await asyncio.to_thread(seconds_until_gone, pid) < 4
        assert (await answer(await chats.open(), "hi")).text == "echo: hi"  # another is started for who comes next

    async def test_every_answer_of_a_comparison_is_kept(self, chats: Chats) -> None:
        client = await chats.open()
        question = (Message(role="user", content="count 100000"),)
        said: dict[int, str] = {}
        with pytest.raises(EngineStopped):
            async for event in client.compare(CompareRequest(messages=question, mixes=("base", "base"))):
                if isinstance(event, TokenEvent):
                    said[event.index] = said.get(event.index, "") + event.text
                    if len(said) == 2 and len(said[1]) < 10:
                        await client.stop(WHY)
        assert all(text.startswith("0 ") for text in said.values())

    async def test_a_load_is_stopped_too(self, chats: Chats) -> None:
        client = await chats.open("slow")
        pid = (await client.health()).pid
        waiting = asyncio.create_task(partial(client, "hi"))
        await asyncio.sleep(0.1)
        await client.stop(WHY)
        assert isinstance((await waiting)[1], EngineStopped)
        assert await asyncio.to_thread(seconds_until_gone, pid) < 4

    async def test_one_that_the_system_terminates_says_so(self, chats: Chats) -> None:
        client = await chats.open()
        answering = asyncio.create_task(partial(client, "count 100000"))
        await asyncio.sleep(0.5)
        os.kill((await client.health()).pid, signal.SIGTERM)
        said, error = await answering
        assert said
        assert isinstance(error, EngineStopped)
        assert "it was terminated" in str(error)
