"""Chats that are killed in the middle of saving and streaming: what they acknowledged is there, what had come of
answers too, the store opens, and no engine process stays. 30 of them in `test`, 300 in `soak`."""

import os
import random
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from mp13.chat.conversation.store import ConversationStore
from mp13.chat.conversation.tree import Conversation
from tests.fakes.fake_adapter import make_adapter
from tests.service.conftest import ROOT, engine_pids, is_alive, seconds_until_gone

CHAT = Path(__file__).with_name("saving_chat.py")
MOST_LINES = 400  # of what a chat acknowledges before it is killed


class Chats:
    """Starts chats, listens to them and kills them."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self.acknowledged: list[list[str]] = []  # by the chat that runs

    def killed(self, seed: int) -> None:
        """Let a chat run for a random while; what it has acknowledged by its end is in `acknowledged`."""
        choose = random.Random(seed)
        assert self._process.stdin is not None
        self._process.stdin.write(f"{seed}\n")
        self._process.stdin.flush()
        pid = int(self._line()[1])
        self.acknowledged = [self._line() for _ in range(choose.choice((0, 1, choose.randrange(MOST_LINES))))]
        time.sleep(choose.random() * 0.05)
        os.kill(pid, signal.SIGKILL)
        while is_alive(pid):
            time.sleep(0.001)
        assert self._process.stdin is not None
        self._process.stdin.write("end\n")
        self._process.stdin.flush()
        while (line := self._line()) != ["end"]:
            self.acknowledged.append(line)

    def _line(self) -> list[str]:
        assert self._process.stdout is not None
        return self._process.stdout.readline().split()


@pytest.fixture
def killed_chats(tmp_path: Path) -> Iterator[Chats]:
    make_adapter("pirate")
    with subprocess.Popen(
        [sys.executable, str(CHAT)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=(tmp_path / "err").open("w"),
        text=True, env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"},
    ) as process:  # fmt: skip
        yield Chats(process)
        process.kill()
    assert "Traceback" not in (tmp_path / "err").read_text()


def check(acknowledged: list[list[str]]) -> None:
    """Everything a killed chat has told is in the store."""
    told = defaultdict(list)
    for what, *values in acknowledged:
        told[what].append(values)
    with ConversationStore() as store:
        assert store._rows("PRAGMA integrity_check") == [("ok",)]
        store._db.execute("INSERT INTO turns_text (turns_text, rank) VALUES ('integrity-check', 1)")
        rows = store._rows("SELECT id, parent_id, text, finish_reason FROM turns")
        by_id = {id: (text, reason) for id, _, text, reason in rows}
        answered = {parent for _, parent, _, _ in rows}
        assert {id for (id,) in told["asked"]} <= by_id.keys()
        for (id,) in told["done"]:
            text, reason = by_id[id]
            assert (reason, text.split()[-1].isdigit()) == ("stop", True)
        for id, length in told["draft"]:
            assert len(by_id[id][0]) >= int(length)
        assert {prompt for (prompt,) in told["said"]} <= answered
        for text, reason in by_id.values():
            if reason is not None:  # an answer, or as much of one as came
                numbers = text.split()
                assert numbers == [str(number) for number in range(len(numbers))]
                assert numbers
        for info in store.conversations():
            conversation = Conversation.stored(store, info.id)
            assert conversation.turns == store.turns(info.id)
            assert conversation.turns


def kill_many(chats: Chats, rounds: int, runtime: Path) -> None:
    partial = 0
    for seed in range(rounds):
        chats.killed(seed)
        check(chats.acknowledged)
        for pid in engine_pids(runtime.parent):
            seconds_until_gone(pid)
        assert engine_pids(runtime.parent) == []
        with ConversationStore() as store:
            partial += store._rows("SELECT count(*) FROM turns WHERE finish_reason = 'abort'")[0][0]
    assert partial  # or nothing of this was worth much


def test_30_chats_that_are_killed_lose_nothing(killed_chats: Chats, runtime: Path) -> None:
    kill_many(killed_chats, 30, runtime)


@pytest.mark.soak
def test_300_chats_that_are_killed_lose_nothing(killed_chats: Chats, runtime: Path) -> None:
    kill_many(killed_chats, 300, runtime)
