"""Blocking work beside a screen that may be left at any moment."""

import asyncio
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from mp13.chat.wizard.background import in_background

SRC = Path(__file__).parents[2] / "src"
LEAVES = """
import asyncio, threading
from mp13.chat.wizard.background import in_background
async def main():
    task = asyncio.create_task(in_background(threading.Event().wait))
    await asyncio.sleep(0)
    task.cancel()
asyncio.run(main())
"""


async def test_what_it_returns_and_raises_comes_through() -> None:
    assert await in_background(lambda: threading.current_thread() is not threading.main_thread())
    with pytest.raises(ZeroDivisionError):
        await in_background(lambda: 1 // 0)


async def test_what_comes_too_late_is_dropped() -> None:
    gate, ended = threading.Event(), threading.Event()

    def work() -> None:
        gate.wait()
        ended.set()

    task = asyncio.create_task(in_background(work))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    gate.set()
    assert await in_background(lambda: ended.wait(60))


def test_a_process_ends_though_its_work_never_does() -> None:
    command = [sys.executable, "-c", LEAVES]
    done = subprocess.run(command, env={"PYTHONPATH": str(SRC)}, capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
