"""`/train` in a script: what it says meanwhile, how a script waits for it, what is left when the script ends first."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from mp13.chat.cli import mp13, mp13chat
from mp13.engine.training.checkpoints import RunFolder
from mp13.library.paths import adapters_dir
from mp13.service.training_schema import TrainingFailed
from tests.engine.tiny_models import tiny_model
from tests.fakes.command import Command, Outcome, Terminal
from tests.fakes.fake_client import FakeHost
from tests.fakes.fake_training import finished, planned, step
from tests.service.conftest import engine_pids, seconds_until_gone

Script = Callable[..., Outcome]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Script:
    """Run these lines, in a folder with the file `butler.jsonl`."""
    monkeypatch.chdir(tmp_path)
    rows = [{"instruction": q, "output": "Very good, sir."} for q in ("the dog", "the fox", "hello", "and then")]
    Path("butler.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = Command(monkeypatch, capsys)

    def run(*lines: str, flags: tuple[str, ...] = ()) -> Outcome:
        Path("script").write_text("\n".join(lines))
        return command.run(mp13chat.main, "--script", "script", *flags, stdin=Terminal())

    return run


class TestScripts:
    def test_a_script_waits_for_the_end_and_is_told_how_far_it_is(self, host: FakeHost, script: Script) -> None:
        host.trained = [planned(), *(step(n, 4.0 - n / 20) for n in range(1, 41)), finished()]
        code, out, err = script("/train butler.jsonl jeeves rank=4", "/train wait", "hi")
        assert (code, out) == (0, "an answer\n")
        (client,) = host.clients
        (request,) = client.training.requests
        assert (request.name, request.settings) == ("jeeves", {"rank": 4})
        said = err.splitlines()
        assert "mp13chat: training jeeves 1/40 · loss 3.95" in said
        assert "mp13chat: training jeeves 40/40 · loss 2.00" in said
        assert sum("the training of jeeves is done at step 40" in line for line in said) == 1

    def test_a_run_that_breaks_off_ends_a_script_that_waits_for_it(self, host: FakeHost, script: Script) -> None:
        host.trained = [planned(), TrainingFailed(code="TrainingError", message="the disk is full")]
        code, out, err = script("/train butler.jsonl", "/train wait", "never")
        assert (code, out) == (1, "")
        assert err.endswith("mp13chat: script:2: the training of butler broke off: the disk is full\n")

    def test_the_end_is_said_before_the_next_line(self, host: FakeHost, script: Script) -> None:
        host.trained = [planned(), TrainingFailed(code="TrainingError", message="the disk is full")]
        code, out, err = script("/train butler.jsonl", "hi", "again")
        assert (code, out) == (0, "an answer\nan answer\n")
        assert err.count("mp13chat: the training of butler broke off: the disk is full\n") == 1

    def test_a_script_that_ends_before_its_run_says_what_is_left(self, host: FakeHost, script: Script) -> None:
        host.trained = [planned(), step(1, 3.0)]
        code, _, err = script("/train butler.jsonl", "hi", "/train pause", "/train status --json")
        assert code == 0 and host.clients[0].training.verbs == ["pause"]
        last = err.splitlines()[-1]
        assert last.startswith("mp13chat: the training of butler ends with the engine's last chat, its last")
        assert f"/train {Path('butler.jsonl').resolve()} butler resume=yes, or mp13 train --model" in last

    def test_bad_data_ends_the_script_before_the_engine_hears_of_it(self, host: FakeHost, script: Script) -> None:
        Path("bad.jsonl").write_text('{"instruction": "x", "output": ""}\n')
        code, _, err = script("/train bad.jsonl")
        assert err.splitlines()[-1].startswith("mp13chat: script:1: ") and code == 2
        assert "bad.jsonl:1: output is empty; write it" in err
        assert not host.clients[0].training.requests


@pytest.mark.slow
def test_a_script_trains_on_a_real_engine_is_cut_short_and_goes_on_to_talk_to_it(
    script: Script, tmp_path: Path, runtime: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tiny_model(tmp_path / "model", max_position_embeddings=300)
    small = ("model", model), ("dtype", "float32"), ("kv_cache_memory", "256KiB"), ("block_size", 4), ("max_tokens", 4)
    flags = tuple(word for key, value in small for word in ("--set", f"{key}={value}"))
    code, _, err = script("/train butler.jsonl mine rank=2 steps=3000 save_every=3000", "hello", flags=flags)
    assert code == 0 and "to go on from there: /train" in err
    assert all(seconds_until_gone(pid) < 8 for pid in engine_pids(runtime.parent))
    (parked,) = RunFolder(adapters_dir() / "mine").steps() or [0]
    again = "/train butler.jsonl mine resume=yes"
    lines = (again, "/train stop", "/train wait", "/adapter mine", "hello")
    code, out, err = script(*lines, flags=(*flags, "--json"))
    assert code == 0, err
    (answer,) = map(json.loads, out.splitlines())
    assert [used["name"] for used in answer["provenance"]["adapters"]] == ["mine"]
    assert parked < 3000 and "the training of mine was stopped at step " in err
    assert (adapters_dir() / "mine" / "adapter_config.json").is_file()
    shown = Command(monkeypatch, capsys).run(mp13.main, "train", "runs", "mine", "--json", stdin=Terminal())
    assert shown.code == 0 and json.loads(shown.out)
