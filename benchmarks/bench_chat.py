"""How the chat feels: first frame, key to paint, Esc to stop, a long conversation's opening. All in a pseudo-terminal.

A time runs from the byte that is written to the terminal to the frame that shows what it did. Keys are pressed while an
engine says 100 tokens a second, and while the starter computes on this machine's CPU; beside them those of a bare
Textual editor. Exits 1 when a goal is missed.
"""

import argparse
import os
import random
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil
from pathlib import Path

from machine import environment
from terminal import Terminal

from mp13.chat.conversation.store import ConversationStore
from mp13.chat.conversation.turn import Turn
from mp13.library.paths import data_dir

READY = "sk anything"  # the cursor is on the A
CHAT = [sys.executable, "-m", "mp13.chat.cli.mp13chat"]
SCRIPTED = [sys.executable, "-m", "benchmarks.scripted_chat"]
BARE = """
from textual.app import App
from textual.widgets import Static, TextArea
class Bare(App):
    def compose(self):
        yield Static("painted")
        yield TextArea()
Bare().run()
"""
TURNS, KEYS, SWITCH_KEYS = 2000, 40, 20


@dataclass(frozen=True)
class Goal:
    """`share` of the values, or of the ratios to `beside`, is at most `limit`."""

    measured: str
    share: float
    limit: float
    beside: str = ""


GOALS = (
    Goal("key to paint, 100 tok/s stream", 0.95, 50),
    Goal("key to paint, starter at work", 0.95, 50),
    Goal("Esc to stopped, 100 tok/s stream", 0.95, 200),
    Goal("Esc to stopped, starter at work", 0.95, 200),
    Goal(f"{TURNS:,} turns opened", 0.5, 1000),
    Goal("first frame", 0.5, 1.5, "first frame, bare Textual app"),
)


class Bench:
    def __init__(self, keys: int) -> None:
        self.times: dict[str, list[float]] = {}  # milliseconds
        self._keys = keys

    def take(self, name: str, seconds: float) -> None:
        self.times.setdefault(name, []).append(seconds * 1e3)

    def first_frames(self) -> None:
        for name, command, mark in (
            ("first frame, bare Textual app", [sys.executable, "-c", BARE], "painted"),
            ("first frame", CHAT, READY),
        ):
            with world() as env, Terminal(command, (80, 24), **env, MP13_MODEL="/nowhere") as terminal:
                self.take(name, terminal.sees(mark) - terminal.started)

    def bare(self) -> None:
        with world() as env, Terminal([sys.executable, "-c", BARE], **env) as terminal:
            terminal.sees("painted")
            terminal.rest(0.5)
            self._type(terminal, "key to paint, bare Textual editor", "\x01\x0b")

    def answering(self, name: str, command: list[str]) -> None:
        """Keys while the answer comes, then Esc."""
        with world() as env, Terminal(command, **env) as terminal:
            terminal.sees(" ctx")  # the status line of an engine that is ready
            self._type(terminal, f"key to paint, idle, {name}", "\x15")
            terminal.send("Tell me a very long story about the sea.\r")
            terminal.rest(2.0)
            self._type(terminal, f"key to paint, {name}", "\x15")
            self.take(f"Esc to stopped, {name}", terminal.press("\x1b", "stopped", 10))

    def opening(self) -> None:
        with world() as env:
            with ConversationStore(Path(env["MP13_DATA_DIR"]) / "conversations.db") as store:
                turns = list(_turns())
                store.add_all("1" * 32, turns, head=turns[-1].id)
            with Terminal(SCRIPTED, **env) as terminal:
                terminal.sees(" ctx")
                terminal.send("/resume latest")
                terminal.rest(0.5)
                self.take(f"{TURNS:,} turns opened", terminal.press("\r", f"end {TURNS - 1}"))

    def _type(self, terminal: Terminal, name: str, clear: str) -> None:
        """Each key brings a character that was not on the terminal before, so that no other frame shows it."""
        for number in range(self._keys):
            if number % SWITCH_KEYS == SWITCH_KEYS - 1:
                terminal.send(clear)  # what is written stays short
                terminal.rest(0.3)
            self.take(name, terminal.press(chr(0x4E00 + number)))
            terminal.rest(random.uniform(0.05, 0.15))
        terminal.send(clear)


def _turns() -> Iterator[Turn]:
    text = "Some **words**, `code`, and\n\n- a list\n- of two\n\n"
    parent = None
    for number in range(TURNS):
        role, said = ("assistant", text) if number % 2 else ("user", "")
        turn = Turn(role, f"{said}end {number}", "base", parent)
        parent = turn.id
        yield turn


@contextmanager
def world() -> Iterator[dict[str, str]]:
    """Folders of one run's own, with the models and adapters that are here."""
    with tempfile.TemporaryDirectory(prefix="mp13-bench-") as home:
        data = Path(home) / "data"
        data.mkdir()
        for name in ("models", "adapters"):
            if (data_dir() / name).is_dir():
                (data / name).symlink_to(data_dir() / name)
        Path(home, "config.toml").write_text("# configured: no questions\n")
        os.mkdir(f"{home}/run", 0o700)
        yield {"MP13_DATA_DIR": str(data), "MP13_CONFIG_DIR": home, "XDG_RUNTIME_DIR": f"{home}/run"}


def table(times: dict[str, list[float]]) -> str:
    lines = ["| measured | values | p50 | p95 |", "|---|---|---|---|"]
    lines += [f"| {name} | {len(v)} | {at(v, 0.5):.1f} ms | {at(v, 0.95):.1f} ms |" for name, v in times.items()]
    return "\n".join(lines)


def at(values: list[float], share: float) -> float:
    """The smallest value that `share` of them do not exceed."""
    return statistics.median(values) if share == 0.5 else sorted(values)[ceil(len(values) * share) - 1]


def verdicts(times: dict[str, list[float]]) -> list[tuple[bool, str]]:
    found = []
    for goal in GOALS:
        value, unit = at(times[goal.measured], goal.share), " ms"
        if goal.beside:
            value, unit = value / at(times[goal.beside], goal.share), "× of a bare Textual app's"
        name = f"{goal.measured}, p{goal.share * 100:.0f}"
        met = value <= goal.limit
        found.append((met, f"| {name} | {value:.2f}{unit} | ≤ {goal.limit:g} | {'met' if met else 'missed'} |"))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="rounds of everything (default 5)")
    parser.add_argument("--keys", type=int, default=KEYS, help=f"keys of each kind in a round (default {KEYS})")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables here")
    options = parser.parse_args()
    if shutil.which("nvidia-smi"):
        print("note: a GPU is here, so the starter may not work on the CPU", file=sys.stderr)
    facts, bench = environment(), Bench(options.keys)
    for number in range(options.rounds):
        print(f"round {number + 1}", flush=True)
        bench.first_frames()
        bench.bare()
        bench.answering("100 tok/s stream", SCRIPTED)
        bench.answering("starter at work", CHAT)
        bench.opening()
    goals = verdicts(bench.times)
    lines = [
        table(bench.times),
        "",
        "| goal | measured | bar | |",
        "|---|---|---|---|",
        *(line for _, line in goals),
        "",
    ]
    lines += [f"- {name}: {value}" for name, value in facts.items()]
    print("\n".join(lines))
    if options.markdown:
        options.markdown.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return 0 if all(met for met, _ in goals) else 1


if __name__ == "__main__":
    sys.exit(main())
