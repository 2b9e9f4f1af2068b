"""A chat in a process of its own, to be killed: prints the pid of the engine that it starts, then what it reaches.

Arguments: the model, and how far to go: "before-settings" and "before-lease" die there, "answering" streams an answer
and "comparing" two, "inspect" tells after an answer whether torch is in this process.
"""

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any

from mp13.engine.config import EngineConfig
from mp13.service import launcher
from mp13.service.client import EngineClient
from mp13.service.schema import CompareRequest, GenerateRequest, Message, SamplingParams

_spawn = launcher._spawn


def _spawn_and_tell(*args: Any, **kwargs: Any) -> Any:
    process = _spawn(*args, **kwargs)
    print(process.pid, flush=True)
    if sys.argv[2] == "before-lease":
        EngineClient.hold = _die  # type: ignore[method-assign,assignment]
    return process


def _die(*args: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


async def main(model: str, until: str) -> None:
    client = await launcher.connect(EngineConfig(model), engine="tests.fakes.fake_engine:FakeEngine")
    message, long = Message(role="user", content="count 100000"), SamplingParams(max_tokens=100_000)
    asked = {
        "answering": lambda: client.generate(GenerateRequest(messages=(message,), sampling=long)),
        "comparing": lambda: client.compare(CompareRequest(messages=(message,), mixes=("base", "base"), sampling=long)),
        "inspect": lambda: client.generate(GenerateRequest(messages=(Message(role="user", content="hi"),))),
    }
    if until in asked:
        async for event in asked[until]():
            print(event.type, flush=True)
    print("libtorch" in Path("/proc/self/maps").read_text() or "torch" in sys.modules, flush=True)
    await asyncio.sleep(3600)


if __name__ == "__main__":
    launcher._spawn = _spawn_and_tell
    if sys.argv[2] == "before-settings":
        launcher._hand_over = _die
    asyncio.run(main(*sys.argv[1:]))
