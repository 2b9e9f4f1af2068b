"""A pseudo-terminal with a program in it, whose keys are pressed and whose output is watched against the clock."""

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
from pathlib import Path
from types import TracebackType
from typing import Self

ROOT = Path(__file__).resolve().parent.parent


class Terminal:
    """Nobody answers what the program asks the terminal, so it gets what every terminal can."""

    def __init__(self, command: list[str], size: tuple[int, int] = (100, 30), **environment: str) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", size[1], size[0], 0, 0))
        env = {**os.environ, "TERM": "xterm-256color", "COLORTERM": "truecolor", "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
        env.pop("PYTHONDONTWRITEBYTECODE", None)  # from bytecode, as installed programs run
        self.started = time.perf_counter()
        self._process = subprocess.Popen(
            command, stdin=slave, stdout=slave, stderr=slave, cwd=ROOT, env=env | environment, start_new_session=True
        )
        os.close(slave)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Its engine ends by itself when the chat is gone."""
        self._process.send_signal(signal.SIGTERM)
        self.rest(1.0)
        self._process.kill()
        self._process.wait()
        os.close(self._master)

    def sees(self, mark: str, timeout: float = 60.0) -> float:
        """When the bytes of `mark` have come, as `time.perf_counter` has it.

        Raises:
            RuntimeError: they did not come, or the program ended; the message carries the end of its output.
        """
        seen, wanted = b"", mark.encode()
        deadline = time.perf_counter() + timeout
        while select.select([self._master], [], [], max(deadline - time.perf_counter(), 0))[0]:
            try:
                seen += os.read(self._master, 1 << 16)
            except OSError:
                break
            if wanted in seen:
                return time.perf_counter()
        raise RuntimeError(f"no {mark!r} on the terminal; it holds {seen[-1500:].decode(errors='replace')!r}")

    def press(self, keys: str, mark: str = "", timeout: float = 60.0) -> float:
        """Seconds from `keys` to the frame that brings `mark` (default: the keys themselves)."""
        self.rest(0)
        pressed = time.perf_counter()
        os.write(self._master, keys.encode())
        return self.sees(mark or keys, timeout) - pressed

    def send(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def rest(self, seconds: float) -> None:
        """Let what comes come."""
        deadline = time.perf_counter() + seconds
        while select.select([self._master], [], [], max(deadline - time.perf_counter(), 0))[0]:
            try:
                os.read(self._master, 1 << 16)
            except OSError:
                return
