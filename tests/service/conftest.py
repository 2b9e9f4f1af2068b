"""Real engine processes around the fake engine, in a runtime folder of the test's own; none outlives its test."""

import os
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from mp13.engine.config import EngineConfig
from mp13.service import launcher
from mp13.service.client import EngineClient
from mp13.service.schema import FinishEvent, GenerateRequest, Message, SamplingParams, TokenEvent
from tests.fakes.fake_client import FakeHost

ROOT = Path(__file__).parents[2]
FAKE = "tests.fakes.fake_engine:FakeEngine"


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeHost:
    """What answers in place of an engine process; the model is a folder, so that no starter is installed."""
    scripted = FakeHost()
    monkeypatch.setattr(launcher, "connect", scripted)
    monkeypatch.setenv("MP13_MODEL", str(tmp_path))
    return scripted


@contextmanager
def runtime_folder() -> Iterator[Path]:
    """A short path: pytest's own folders are too long for a socket. Kills what still runs from there."""
    with tempfile.TemporaryDirectory(prefix="mp13-") as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("XDG_RUNTIME_DIR", folder)
        yield Path(folder) / "mp13"
        for pid in engine_pids(folder):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest.fixture(autouse=True)
def runtime() -> Iterator[Path]:
    """Where this test's engine processes are found; not there yet."""
    with runtime_folder() as folder:
        yield folder


def engine_pids(runtime_parent: str | Path) -> list[int]:
    """The live engine processes that were started with this XDG_RUNTIME_DIR."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            ours = f"XDG_RUNTIME_DIR={runtime_parent}\0".encode() in (process / "environ").read_bytes()
            if ours and b"mp13.service.app" in (process / "cmdline").read_bytes():
                found.append(int(process.name))
    return found


def is_alive(pid: int) -> bool:
    """Whether the process still runs; a zombie, which only waits to be counted, does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def seconds_until_gone(pid: int, at_most: float = 8.0) -> float:
    start = time.monotonic()
    while is_alive(pid) and time.monotonic() - start < at_most:
        time.sleep(0.02)
    return time.monotonic() - start


class Chats:
    """Opens clients as chats do, and closes them after the test."""

    def __init__(self) -> None:
        self.clients: list[EngineClient] = []

    async def open(self, model: str = "fake", transport: launcher.Transport = "unix", **settings: Any) -> EngineClient:
        client = await launcher.connect(EngineConfig(model, **settings), engine=FAKE, transport=transport)
        self.clients.append(client)
        return client


@pytest_asyncio.fixture
async def chats() -> AsyncIterator[Chats]:
    opened = Chats()
    yield opened
    for client in opened.clients:
        await client.close()


def asking(text: str, adapters: str = "base", **sampling: Any) -> GenerateRequest:
    return GenerateRequest(
        messages=(Message(role="user", content=text),), adapters=adapters, sampling=SamplingParams(**sampling)
    )


async def answer(client: EngineClient, text: str, adapters: str = "base", **sampling: Any) -> FinishEvent:
    """The end of an answer, whose text is that of its tokens."""
    said = ""
    async for event in client.generate(asking(text, adapters, **sampling)):
        if isinstance(event, TokenEvent):
            said += event.text
    assert isinstance(event, FinishEvent)
    assert event.text == said
    return event
