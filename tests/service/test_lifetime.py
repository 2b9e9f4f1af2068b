"""One engine process for equal settings; it lives as long as a chat does, and a chat survives it."""

import asyncio
import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, aclosing, contextmanager
from pathlib import Path

import pytest

from mp13.errors import ConfigError, ModelError, Mp13Error
from mp13.service import hold, launcher
from mp13.service.client import EngineGone, EngineStopped
from mp13.service.schema import TokenEvent
from tests.service.conftest import ROOT, Chats, answer, asking, engine_pids, is_alive, seconds_until_gone


@contextmanager
def another_chat(model: str, until: str) -> Iterator["subprocess.Popen[str]"]:
    """A chat process that goes `until` there, with an engine that runs already."""
    with ExitStack() as ending:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
        command = [sys.executable, "-m", "tests.service.chat_process", model, until]
        chat = ending.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment))
        ending.callback(chat.kill)
        yield chat


@contextmanager
def a_chat(model: str, until: str) -> Iterator[tuple["subprocess.Popen[str]", int]]:
    """The same, and the pid of the engine that it started."""
    with another_chat(model, until) as chat:
        assert chat.stdout is not None
        yield chat, int(chat.stdout.readline())


def read_until(chat: "subprocess.Popen[str]", line: str) -> None:
    assert chat.stdout is not None
    assert line in (heard.strip() for heard in chat.stdout)


@pytest.mark.parametrize(
    ("model", "until", "heard"),
    [
        ("slow", "idle", "False"),
        ("fake", "answering", "token"),
        ("fake", "comparing", "token"),
        ("stubborn", "idle", "False"),
    ],
    ids=[
        "while its model loads",
        "in the middle of an answer",
        "in the middle of a comparison",
        "with an engine that does not let go",
    ],
)
def test_killing_the_chat_ends_its_engine(model: str, until: str, heard: str) -> None:
    with a_chat(model, until) as (chat, engine):
        read_until(chat, heard)
        assert is_alive(engine)
        chat.kill()
        assert seconds_until_gone(engine) < 5


@pytest.mark.parametrize("until", ["answering", "comparing"])
async def test_a_chat_keeps_its_answer_when_another_that_shares_its_engine_is_killed(chats: Chats, until: str) -> None:
    with a_chat("fake", until) as (killed, engine):
        await asyncio.to_thread(read_until, killed, "token")
        client = await chats.open()
        answering = asyncio.create_task(answer(client, "count 150", max_tokens=150))  # three seconds, beyond the grace
        await asyncio.sleep(0.2)
        killed.kill()
        assert (await answering).text.endswith("149 ")
        assert (await client.health()).pid == engine


def test_killing_all_chats_that_share_an_engine_leaves_none() -> None:
    with a_chat("fake", "comparing") as (one, engine), another_chat("fake", "answering") as two:
        read_until(one, "token")
        read_until(two, "token")
        one.kill()
        two.kill()
        assert seconds_until_gone(engine) < 5


@pytest.mark.parametrize("until", ["answering", "comparing"])
def test_killing_engine_and_chats_together_leaves_nothing(until: str, runtime: Path) -> None:
    with a_chat("fake", until) as (one, engine), another_chat("fake", until) as two:
        read_until(one, "token")
        read_until(two, "token")
        for pid in (engine, one.pid, two.pid):
            os.kill(pid, signal.SIGKILL)
        assert seconds_until_gone(engine) < 5
        assert engine_pids(runtime.parent) == []


async def test_two_chats_that_lose_their_engine_share_the_next_one(chats: Chats, runtime: Path) -> None:
    one, two = await chats.open(), await chats.open()
    os.kill((await one.health()).pid, signal.SIGKILL)
    for client in (one, two):
        with pytest.raises(EngineGone):
            await answer(client, "hi")
    again = await asyncio.gather(chats.open(), chats.open())
    [pid] = {(await client.health()).pid for client in again}
    assert engine_pids(runtime.parent) == [pid]


@pytest.mark.parametrize("until", ["before-settings", "before-lease"])
def test_a_chat_killed_while_it_starts_its_engine_leaves_none(until: str) -> None:
    with a_chat("fake", until) as (chat, engine):
        assert chat.wait(10) == -signal.SIGKILL
        assert seconds_until_gone(engine) < 5


def test_a_chats_process_has_no_torch_in_it() -> None:
    with a_chat("fake", "inspect") as (chat, _):
        read_until(chat, "finish")
        read_until(chat, "False")
        assert "libtorch" not in Path(f"/proc/{chat.pid}/maps").read_text()


def test_interrupting_the_chats_terminal_leaves_the_engine_to_its_other_chats() -> None:
    with a_chat("fake", "idle") as (_, engine):
        assert os.getsid(engine) == os.getpgid(engine) == engine


async def test_chats_with_equal_settings_share_an_engine_and_others_do_not(
    chats: Chats, runtime: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = await asyncio.gather(*(chats.open() for _ in range(3)))
    pids = {(await client.health()).pid for client in together}
    assert len(pids) == 1
    pids.add((await (await chats.open(seed=1)).health()).pid)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    pids.add((await (await chats.open()).health()).pid)
    assert len(pids) == 3
    assert set(engine_pids(runtime.parent)) == pids


async def test_a_model_folder_is_the_same_from_every_working_directory(
    chats: Chats, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model").mkdir()
    monkeypatch.chdir(tmp_path)
    here = await chats.open("model")
    monkeypatch.chdir("/")
    there = await chats.open(str(tmp_path / "model"))
    assert (await here.health()).pid == (await there.health()).pid
    assert (await answer(here, "hi")).provenance.model == str(tmp_path / "model")


async def test_the_engine_stays_for_the_second_chat_and_ends_after_the_last(chats: Chats) -> None:
    one, two = await chats.open(), await chats.open()
    pid = (await one.health()).pid
    async with aclosing(two.events()) as events:
        await anext(events)  # reading them and leaving gives nothing back: the client itself holds the engine
    await one.close()
    await asyncio.sleep(2.5)  # longer than both the wait for a first lease and the grace
    assert (await answer(two, "hi")).text == "echo: hi"
    await two.close()
    assert await asyncio.to_thread(seconds_until_gone, pid) < 3


async def test_who_comes_when_the_grace_ends_gets_an_engine_all_the_same(chats: Chats) -> None:
    for pause in (1.0, 1.1, 0):
        client = await chats.open()
        assert (await answer(client, "hi")).text == "echo: hi"
        await client.close()
        await asyncio.sleep(pause)


async def test_a_killed_engine_is_told_to_every_call_and_the_next_connection_starts_another(chats: Chats) -> None:
    client = await chats.open()
    pid = (await client.health()).pid
    events, running = client.events(), client.generate(asking("count 1000", max_tokens=1000))
    await anext(events)
    await anext(running)
    os.kill(pid, signal.SIGKILL)
    for stream in (events, running):
        with pytest.raises(
            EngineGone, match=r"the engine process was killed, as .* memory runs out; its log is .*\.log"
        ):
            async for _ in stream:
                pass
    with pytest.raises(EngineGone):
        await client.health()
    again = await chats.open()
    assert (await answer(again, "hi")).text == "echo: hi"
    assert (await again.health()).pid != pid


async def test_who_did_not_start_the_engine_cannot_tell_how_it_ended(chats: Chats) -> None:
    await chats.open()
    joined = await chats.open()
    os.kill((await joined.health()).pid, signal.SIGKILL)
    with pytest.raises(EngineGone, match=r"the engine process has ended; its log is .*engine-\w{12}\.log"):
        await answer(joined, "hi")


async def test_a_full_runtime_folder_leaves_no_process(
    chats: Chats, runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(hold, "publish", full)
    with pytest.raises(ConfigError, match=r"cannot be written \(No space left on device\); make room there"):
        await chats.open()
    for pid in engine_pids(runtime.parent):
        assert await asyncio.to_thread(seconds_until_gone, pid) < 2


async def test_an_engine_that_dies_by_itself_in_an_answer_is_gone_after_what_it_said(chats: Chats) -> None:
    said = []
    with pytest.raises(EngineGone):
        async for event in (await chats.open()).generate(asking("crash")):
            if isinstance(event, TokenEvent):
                said.append(event.text)
    assert said == ["one ", "two "]


async def test_an_engine_that_dies_while_it_loads_is_gone(chats: Chats) -> None:
    with pytest.raises(EngineGone):
        await answer(await chats.open("crash"), "hi")


async def test_an_engine_that_could_not_load_is_not_shared_so_that_a_mended_model_loads(chats: Chats) -> None:
    pids = set()
    for _ in range(2):
        client = await chats.open("broken")
        with pytest.raises(ModelError):
            await answer(client, "hi")
        pids.add((await client.health()).pid)
    assert len(pids) == 2


async def test_giving_up_while_the_engine_starts_leaves_no_engine_and_no_lock(chats: Chats, runtime: Path) -> None:
    connecting = asyncio.create_task(chats.open())
    while not engine_pids(runtime.parent):
        await asyncio.sleep(0.01)
    [pid] = engine_pids(runtime.parent)
    connecting.cancel()
    await asyncio.wait({connecting})
    assert await asyncio.to_thread(seconds_until_gone, pid) < 1
    assert (await answer(await chats.open(), "hi")).text == "echo: hi"


async def test_an_engine_that_hangs_is_an_error_that_says_what_to_do(
    chats: Chats, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.kill((await (await chats.open()).health()).pid, signal.SIGSTOP)
    monkeypatch.setattr(launcher, "_ANSWER_S", 0.3)
    with pytest.raises(Mp13Error, match=r"has not answered .* end it and try again \(its log is .*\.log\)"):
        await chats.open()


async def test_an_engine_process_that_cannot_start_is_an_error_with_its_last_words(
    chats: Chats, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "uvicorn.py").write_text("raise ImportError('this installation is broken')")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{ROOT}")
    for transport in ("unix", "loopback"):
        with pytest.raises(EngineGone, match=r"ended at once \(ImportError: this installation is broken\); its log is"):
            await chats.open(transport=transport)


async def test_what_lies_in_the_working_directory_is_not_imported(
    chats: Chats, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "uvicorn.py").write_text("raise ImportError('code of a cloned repository')")
    monkeypatch.chdir(tmp_path)
    assert (await answer(await chats.open(), "hi")).text == "echo: hi"


async def test_a_terminated_engine_ends_at_once_although_chats_hold_it(chats: Chats) -> None:
    client = await chats.open()
    pid = (await client.health()).pid
    start, events = time.monotonic(), client.events()
    await anext(events)
    os.kill(pid, signal.SIGTERM)
    with pytest.raises(EngineStopped):
        async for _ in events:
            pass
    assert await asyncio.to_thread(seconds_until_gone, pid) < 4
    assert time.monotonic() - start < 4


async def test_an_engine_that_is_ended_is_gone_before_another_starts(chats: Chats) -> None:
    first = await chats.open()
    pid = (await first.health()).pid
    assert not await first.is_shared()
    await first.end("it is started anew")
    assert not is_alive(pid)
    assert (await (await chats.open()).health()).pid != pid


async def test_two_chats_share_an_engine_and_know_it(chats: Chats) -> None:
    one, other = await chats.open(), await chats.open()
    assert await one.is_shared() and await other.is_shared()
