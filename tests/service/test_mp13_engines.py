"""`mp13 ps` and `mp13 stop` as one types them, over real engine processes."""

import asyncio
import io
import json
import os
import signal
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path

import pytest

from mp13.chat.cli import mp13 as command
from mp13.service import processes
from mp13.service.client import EngineStopped
from mp13.service.endpoint import runtime_dir
from tests.fakes.command import Command, Outcome
from tests.service.conftest import Chats, answer, asking, is_alive
from tests.service.test_cancelled_loads import pid_of, stuck

Run = Callable[..., Outcome]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    caller = Command(monkeypatch, capsys)
    return lambda *arguments: caller.run(command.main, *arguments, stdin=io.StringIO())


def test_where_no_engine_runs_both_say_so(run: Run) -> None:
    for arguments in (("ps",), ("stop",), ("stop", "all")):
        assert run(*arguments) == (0, "no engine runs\n", "")
        assert run(*arguments, "--json") == (0, "[]\n", "")


def test_what_dead_engines_left_is_no_engine(run: Run, runtime: Path) -> None:
    runtime_dir()
    (runtime / "dead.sock").touch()
    (runtime / "dead.json").write_text("{")
    (runtime / "gone.sock").touch()
    record = {"pid": os.getpid(), "started_at": 1.0, "model": "m", "log": "l"}  # the pid is another process's by now
    (runtime / "gone.process").write_text(json.dumps(record))
    assert run("ps") == (0, "no engine runs\n", "")


class TestWithEngines:
    async def test_a_list_tells_how_each_is_and_who_uses_it(self, run: Run, chats: Chats, tmp_path: Path) -> None:
        (tmp_path / "pirate").mkdir()
        one, _, loading = await chats.open(), await chats.open(), await chats.open("slow", quantization="hqq-4bit")
        await one.load_adapter(str(tmp_path / "pirate"))
        await pid_of(loading, "reading weights")
        async with aclosing(one.generate(asking("count 1000", max_tokens=1000))) as answering:
            await anext(answering)
            lines = (await asyncio.to_thread(run, "ps")).out.splitlines()
            rows = json.loads((await asyncio.to_thread(run, "ps", "--json")).out)
        assert [line.split() for line in lines[:3]] == [
            ["PID", "STATE", "MODEL", "WEIGHTS", "MEMORY", "CHATS", "AGE"],
            [str(rows[0]["pid"]), "busy", "1", "fake", "float32", *lines[1].split()[5:7], "2", "now"],
            [str(rows[1]["pid"]), "loading", "0%", "slow", "hqq-4bit", *lines[2].split()[5:7], "1", "now"],
        ]
        assert lines[3].startswith(f"{rows[0]['pid']}: adapters pirate; log /")
        assert lines[4].startswith(f"{rows[1]['pid']}: reading weights; log /")
        assert max(map(len, lines[:3])) <= 80
        assert rows[0].keys() == {
            "pid", "state", "model", "dtype", "quantization", "device", "stage", "fraction", "error", "running",
            "waiting", "chats", "adapters", "memory_bytes", "gpu_bytes", "age_s", "log",
            "training", "training_step", "training_steps",
        }  # fmt: skip
        assert (rows[0]["state"], rows[0]["running"], rows[0]["adapters"]) == ("ready", 1, ["pirate"])
        assert (rows[1]["state"], rows[1]["fraction"]) == ("loading", 0.0)
        assert rows[0]["memory_bytes"] > 10_000_000
        assert Path(rows[0]["log"]).is_file()

    async def test_one_that_does_not_answer_is_listed_and_killed(
        self, run: Run, chats: Chats, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(processes, "_VISIT_S", 0.3)
        monkeypatch.setattr(processes, "_END_S", 0.3)
        _, pid = await stuck(chats)
        lines = (await asyncio.to_thread(run, "ps")).out.splitlines()
        assert lines[1].split()[:4] == [str(pid), "no", "answer", "stuck"]
        assert lines[2].startswith(f"{pid}: deep in a load, or hung; log /")
        (row,) = json.loads((await asyncio.to_thread(run, "ps", "--json")).out)
        assert (row["state"], row["memory_bytes"] > 10_000_000) == ("no answer", True)
        stopped = await asyncio.to_thread(run, "stop")
        assert stopped == (0, f"killed, since it did not end by itself: {pid} (stuck)\n", "")
        assert not is_alive(pid)

    async def test_a_failed_one_says_why(self, run: Run, chats: Chats) -> None:
        client = await chats.open("broken")
        while (await client.health()).status == "loading":
            await asyncio.sleep(0.02)
        lines = (await asyncio.to_thread(run, "ps")).out.splitlines()
        assert lines[1].split()[1] == "failed"
        assert "'broken' has no weights; choose another model; log /" in lines[2]

    async def test_the_only_one_needs_no_name_and_its_chat_hears_what_ended_it(self, run: Run, chats: Chats) -> None:
        client = await chats.open()
        pid = (await client.health()).pid
        answering = client.generate(asking("count 1000", max_tokens=1000))
        await anext(answering)
        assert await asyncio.to_thread(run, "stop") == (0, f"stopped {pid} (fake)\n", "")
        with pytest.raises(EngineStopped, match="it was stopped with `mp13 stop`; send the prompt again"):
            async for _ in answering:
                pass
        assert not is_alive(pid)
        assert (await asyncio.to_thread(run, "ps")).out == "no engine runs\n"

    async def test_of_several_one_has_to_be_named(self, run: Run, chats: Chats) -> None:
        clients = [await chats.open(), await chats.open(seed=1), await chats.open(seed=2)]
        pids = [(await client.health()).pid for client in clients]
        code, out, err = await asyncio.to_thread(run, "stop")
        assert (code, out) == (2, "")
        assert err == f"mp13 stop: 3 engines run (pid {', '.join(map(str, pids))}); name one of them, or `all`\n"
        stopped = await asyncio.to_thread(run, "stop", str(pids[1]), "--json")
        assert json.loads(stopped.out) == [{"pid": pids[1], "model": "fake", "killed": False}]
        assert [is_alive(pid) for pid in pids] == [True, False, True]
        assert (await answer(clients[0], "hi")).text == "echo: hi"
        code, out, _ = await asyncio.to_thread(run, "stop", "all")
        assert (code, out) == (0, f"stopped {pids[0]} (fake)\nstopped {pids[2]} (fake)\n")
        assert not any(map(is_alive, pids))

    @pytest.mark.parametrize("which", ["1", "0", "-5", "x", "٣"])
    async def test_what_is_no_engine_is_left_alone_and_told(self, run: Run, chats: Chats, which: str) -> None:
        client = await chats.open()
        pid = (await client.health()).pid
        code, out, err = await asyncio.to_thread(run, "stop", "--", which)
        assert (code, out, err) == (2, "", f"mp13 stop: {which!r} is no engine of yours; running: pid {pid}\n")
        assert is_alive(pid)

    async def test_an_engine_that_was_suspended_is_killed(
        self, run: Run, chats: Chats, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(processes, "_VISIT_S", 0.3)
        monkeypatch.setattr(processes, "_END_S", 0.3)
        pid = (await (await chats.open()).health()).pid
        os.kill(pid, signal.SIGSTOP)
        assert (await asyncio.to_thread(run, "stop")).out.startswith("killed")
        assert not is_alive(pid)
