"""A real pseudo-terminal around a process, and what came out of it: text, escape sequences, characters that act."""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
_SEQUENCE = re.compile(
    r"\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)"
    r"|\x1b[PX^_k][^\x1b]*(?:\x1b\\)?"
    r"|\x1b\[[0-?]*[ -/]*[@-~]"
    r"|\x1b[ -/]*[0-Z\\^-~]"
)
_COLOUR = re.compile(r"[34]8;2;\d+;\d+;\d+")
_ON_SCREEN = re.compile(r"\x1b\[\d{1,3};\d{1,3}H")  # where to draw
_ACTS = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\u00ad"
    "\U000e0000-\U000e0fff]"
)


@dataclass(frozen=True)
class Heard:
    """What a process wrote: `kinds` are its escape sequences, colours and places on the screen made equal; `acting` the
    characters beside them that a terminal would not just draw."""

    text: str
    kinds: frozenset[str]
    acting: frozenset[str]


def heard(stream: bytes) -> Heard:
    said = stream.decode("utf-8", "surrogateescape")
    kinds = {_ON_SCREEN.sub("\x1b[;H", _COLOUR.sub("colour", found)) for found in _SEQUENCE.findall(said)}
    text = _SEQUENCE.sub("", said)
    return Heard(text, frozenset(kinds), frozenset(_ACTS.findall(text)))


def on_terminal(*command: str, size: tuple[int, int] = (80, 24), timeout: float = 60.0, **environment: str) -> Heard:
    """Run `command` on a terminal of its own to its end; what it wrote there.

    Raises:
        AssertionError: it failed, or took longer; the message carries what it wrote last.
    """
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", size[1], size[0], 0, 0))
    env = {**os.environ, "TERM": "xterm-256color", "COLORTERM": "truecolor", "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
    env |= {"PYTHONIOENCODING": "utf-8", **environment}
    env.pop("NO_COLOR", None)
    process = subprocess.Popen(
        command, stdin=slave, stdout=slave, stderr=slave, cwd=ROOT, env=env, start_new_session=True
    )
    os.close(slave)
    try:
        stream = _read(master, time.monotonic() + timeout)
        code = process.wait(5)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        os.close(master)
    assert code == 0, f"it ended with {code} and said {stream[-20000:].decode(errors='replace')}"
    return heard(stream)


def _read(master: int, deadline: float) -> bytes:
    """Until the other side is closed."""
    stream = bytearray()
    while (left := deadline - time.monotonic()) > 0:
        if select.select([master], [], [], left)[0]:
            try:
                stream += os.read(master, 1 << 16)
            except OSError:  # the process has ended
                return bytes(stream)
    raise AssertionError(f"it does not end; it said {bytes(stream[-20000:]).decode(errors='replace')}")
