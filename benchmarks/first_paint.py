"""Time from exec to the first painted frame: the chat beside a bare Textual app, interleaved in one run.

Each run gets its own pseudo-terminal and empty data folder; the clock stops when the text that only a painted
frame holds arrives on it. Prints both medians and their ratio; exits 1 when the ratio is above `--limit`.
"""

import argparse
import fcntl
import os
import pty
import select
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import termios
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BARE = """
from textual.app import App
from textual.widgets import Static
class Bare(App):
    def compose(self):
        yield Static("painted")
Bare().run()
"""
PROGRAMS = {
    "bare Textual app": ([sys.executable, "-c", BARE], "painted"),
    "mp13chat": ([sys.executable, "-m", "src.app.mp13chat"], "sk anything"),  # the cursor is on the A
}


def seconds_to_paint(command: list[str], marker: str, timeout: float = 60.0) -> float:
    """Run `command` on a fresh 80x24 terminal; the seconds until `marker` is on it.

    Raises:
        RuntimeError: the program ended or `timeout` passed before that; the message carries its output.
    """
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    with tempfile.TemporaryDirectory(prefix="mp13-paint-") as home:
        env = {**os.environ, "TERM": "xterm-256color", "COLORTERM": "truecolor", "PYTHONPATH": str(ROOT / "src"),
               "MP13_DATA_DIR": f"{home}/data", "MP13_CONFIG_DIR": home, "MP13_MODEL": f"{home}/model"}  # fmt: skip
        env.pop("PYTHONDONTWRITEBYTECODE", None)  # both run from bytecode, as installed programs do
        Path(home, "config.toml").write_text("# configured: no questions\n")
        started = time.perf_counter()
        process = subprocess.Popen(
            command, stdin=slave, stdout=slave, stderr=slave, cwd=ROOT, env=env, start_new_session=True
        )
        os.close(slave)
        try:
            return _wait_for(master, marker.encode(), started + timeout) - started
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            os.close(master)


def _wait_for(master: int, marker: bytes, deadline: float) -> float:
    seen = b""
    while select.select([master], [], [], max(deadline - time.perf_counter(), 0))[0]:
        try:
            seen += os.read(master, 65536)
        except OSError:  # the program has ended
            break
        if marker in seen:
            return time.perf_counter()
    raise RuntimeError(f"no {marker!r} on the terminal; it holds {seen[-2000:].decode(errors='replace')!r}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=9, help="runs of each program (default 9)")
    parser.add_argument("--limit", type=float, default=1.5, help="largest ratio that passes (default 1.5)")
    options = parser.parse_args()
    times: dict[str, list[float]] = {name: [] for name in PROGRAMS}
    for command, marker in PROGRAMS.values():
        seconds_to_paint(command, marker)  # bytecode and page cache
    for _ in range(options.runs):
        for name, (command, marker) in PROGRAMS.items():
            times[name].append(seconds_to_paint(command, marker))
    bare, ours = (statistics.median(values) for values in times.values())
    for name, values in times.items():
        print(f"{name:18} {statistics.median(values):6.3f} s  (best {min(values):.3f}, worst {max(values):.3f})")
    print(f"{'ratio':18} {ours / bare:6.2f}    (limit {options.limit})")
    return 0 if ours <= options.limit * bare else 1


if __name__ == "__main__":
    sys.exit(main())
