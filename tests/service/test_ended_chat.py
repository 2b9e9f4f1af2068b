"""However a chat ends: no engine process stays, none of its files in the runtime folder; what was answered is kept."""

import os
import pty
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from mp13.chat.conversation.store import ConversationStore
from mp13.library.paths import data_dir
from tests.service.conftest import ROOT, Chats, engine_pids, is_alive, seconds_until_gone

LOCK = "launch.lock"  # stays, see service/leftovers.py


class OnTerminal:
    """The chat on a pseudo-terminal; `said` is all that it wrote there."""

    def __init__(self, model: str, *how: str) -> None:
        self._master, self.slave = pty.openpty()
        self.modes = termios.tcgetattr(self.slave)
        self.said = b""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.fakes.talking_chat", model, *how], cwd=ROOT, start_new_session=True,
            stdin=self.slave, stdout=self.slave, stderr=self.slave,
            env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", "TERM": "xterm-256color"},
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        with suppress(OSError):
            while data := os.read(self._master, 1 << 16):
                self.said += data

    def press(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def sees(self, text: str) -> None:
        until(lambda: text.encode() in self.said)

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.slave)
        self._reader.join(5)
        os.close(self._master)


def until(holds: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@contextmanager
def a_chat(model: str, *how: str) -> Iterator[OnTerminal]:
    chat = OnTerminal(model, *how)
    try:
        yield chat
    finally:
        chat.end()


@contextmanager
def an_answering_chat() -> Iterator[OnTerminal]:
    """It has said something that is in the store."""
    with a_chat("fake") as chat:
        chat.sees(" ctx")
        chat.press("count 4000\r")
        until(lambda: any(text.startswith("0 1 ") for text in answers()))
        yield chat


def answers() -> list[str]:
    if not (data_dir() / "conversations.db").exists():
        return []
    with ConversationStore() as store:
        return [text for (text,) in store._rows("SELECT text FROM turns WHERE role = 'assistant' AND text != ''")]


def no_engine_stays(runtime: Path) -> None:
    for pid in engine_pids(runtime.parent):
        assert seconds_until_gone(pid) < 6
    assert engine_pids(runtime.parent) == []


def left(runtime: Path) -> list[str]:
    return sorted(path.name for path in runtime.iterdir() if path.name != LOCK)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL], ids=lambda number: number.name)
def test_in_the_middle_of_an_answer(number: signal.Signals, runtime: Path) -> None:
    with an_answering_chat() as chat:
        chat.process.send_signal(number)
        code = chat.process.wait(10)
        if number != signal.SIGKILL:
            assert code == 128 + number
            chat.sees("\x1b[?1049l")  # the terminal is as it was
            assert termios.tcgetattr(chat.slave) == chat.modes
            assert b"Traceback" not in chat.said
    [answer] = answers()
    assert answer.split() == [str(count) for count in range(len(answer.split()))]
    no_engine_stays(runtime)
    assert left(runtime) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
@pytest.mark.parametrize("how", ["plain", "count 4000"])
def test_in_the_middle_of_an_answer_without_a_screen(how: str, number: signal.Signals, runtime: Path) -> None:
    """What is on the terminal is what is kept."""
    with a_chat("fake", how) as chat:
        if how == "plain":
            chat.sees("base> ")
            chat.press("count 4000\r")
        chat.sees(" 40 41 ")
        chat.process.send_signal(number)
        assert chat.process.wait(10) == 128 + number
        chat.sees("[base · stopped]")
        assert termios.tcgetattr(chat.slave) == chat.modes
        assert b"Traceback" not in chat.said
        [answer] = answers()
        assert len(answer.split()) > 40
        assert f"{answer}\r\n".encode() in chat.said
    no_engine_stays(runtime)
    assert left(runtime) == []


def test_at_a_line_without_a_screen(runtime: Path) -> None:
    with a_chat("fake", "plain") as chat:
        chat.sees("base> ")
        chat.press("half a line")
        chat.sees("half a line")
        chat.process.terminate()
        assert chat.process.wait(10) == 128 + signal.SIGTERM
        assert termios.tcgetattr(chat.slave) == chat.modes
        assert b"Traceback" not in chat.said
    no_engine_stays(runtime)
    assert left(runtime) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_while_the_model_loads(number: signal.Signals, runtime: Path) -> None:
    with a_chat("slow") as chat:
        until(lambda: engine_pids(runtime.parent) != [])
        chat.process.send_signal(number)
        assert chat.process.wait(10) == 128 + number
    no_engine_stays(runtime)
    assert left(runtime) == []


async def test_what_a_killed_load_leaves_goes_with_the_next_engine(runtime: Path, chats: Chats) -> None:
    with a_chat("slow") as chat:
        until(lambda: engine_pids(runtime.parent) != [] and left(runtime) != [])
        [engine] = engine_pids(runtime.parent)
        os.kill(engine, signal.SIGSTOP)  # so that it cannot clear up
        chat.process.kill()
        chat.process.wait()
        os.kill(engine, signal.SIGKILL)
    no_engine_stays(runtime)
    assert left(runtime)
    client = await chats.open("another")
    [name] = {name.partition(".")[0] for name in left(runtime)}
    assert client.log is not None and name in client.log.name


def test_when_its_terminal_is_closed(runtime: Path) -> None:
    with an_answering_chat() as chat:
        until(lambda: os.getsid(chat.process.pid) == chat.process.pid)
        os.close(chat._master)
        chat._master = os.open(os.devnull, os.O_RDONLY)
        os.kill(chat.process.pid, signal.SIGHUP)  # as the system does where it is the controlling terminal
        chat.process.wait(10)
    assert answers()
    no_engine_stays(runtime)
    assert left(runtime) == []


def test_two_chats_that_share_an_engine(runtime: Path) -> None:
    with an_answering_chat() as one, a_chat("fake") as two:
        two.sees(" ctx")
        [engine] = engine_pids(runtime.parent)
        one.process.terminate()
        one.process.wait(10)
        two.press("count 5\r")
        until(lambda: "0 1 2 3 4 " in answers())
        assert is_alive(engine)
        two.process.terminate()
        two.process.wait(10)
    no_engine_stays(runtime)
    assert left(runtime) == []
