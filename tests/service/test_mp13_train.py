"""`mp13 train` as one types it: what is refused before a model loads, and whole runs on a tiny model."""

import dataclasses
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from mp13.chat.cli import mp13
from mp13.engine.training.process.request import TrainRequest
from mp13.engine.training.process.work import train
from mp13.library import training
from tests.engine.tiny_models import tiny_model
from tests.fakes.command import Command, Outcome
from tests.service.broken_data import ASSISTANT, BROKEN, GOOD, OTHER, USER, said
from tests.service.conftest import ROOT, is_alive

Run = Callable[..., Outcome]
DATA = "\n".join([GOOD, OTHER, said(USER | {"content": "the quick"}, ASSISTANT | {"content": "brown fox"})] * 3)
SMALL = ("--rank", "4", "--batch-tokens", "64", "--accumulate", "1")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """In a folder with the file `data.jsonl`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MP13_DATA_DIR", str(tmp_path / "mp13"))
    monkeypatch.setenv("NO_COLOR", "1")
    (tmp_path / "data.jsonl").write_text(DATA)
    caller = Command(monkeypatch, capsys)
    return lambda *arguments: caller.run(mp13.main, "train", *arguments, stdin=io.StringIO())


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_model(tmp_path_factory.mktemp("model"), max_position_embeddings=60))


@pytest.fixture
def untouched(monkeypatch: pytest.MonkeyPatch) -> None:
    """No other process may be asked."""
    monkeypatch.setattr(training, "run_worker", None)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """What library/worker.py does, without the seconds that another process takes to load torch."""

    def in_this_process(module: str, request: Any, on_progress: Any, on_event: Any, on_start: Any, _: int) -> Any:
        assert module == "mp13.engine.training.process"
        ended = threading.Event()
        on_start(ended.set)

        def told(event: Any) -> None:
            on_event(type(event).__name__, plain(event))

        return plain(train(TrainRequest(**plain(request)), on_progress, told, ended))

    monkeypatch.setattr(training, "run_worker", in_this_process)


def plain(value: Any) -> Any:
    return json.loads(json.dumps(dataclasses.asdict(value), default=str))


def last_json(outcome: Outcome) -> dict[str, Any]:
    assert outcome.code == 0, outcome.err
    found: dict[str, Any] = json.loads(outcome.out.splitlines()[-1])
    return found


class TestRefusals:
    @pytest.mark.parametrize(("name", "content", "line", "sentence"), BROKEN, ids=range(len(BROKEN)))
    def test_broken_data_is_refused_with_its_line_before_another_process_starts(
        self, run: Run, untouched: None, tmp_path: Path, model: str,
        name: str, content: str | bytes, line: int | None, sentence: str,
    ) -> None:  # fmt: skip
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        code, out, err = run("--model", model, "--data", name, "--name", "mine")
        (said_of_it,) = err.splitlines()
        assert (code, out) == (2, "")
        assert said_of_it.startswith(f"{name if line is None else f'{name}:{line}'}: ")
        assert sentence in said_of_it
        assert not (tmp_path / "mp13" / "adapters" / "mine").exists()

    def test_there_are_sixty_of_them(self) -> None:
        assert len(BROKEN) >= 60

    def test_what_the_model_cannot_read_is_refused_with_its_line_before_it_is_loaded(
        self, run: Run, quick: None, tmp_path: Path, model: str
    ) -> None:
        bare = tmp_path / "bare"  # a model without its weights
        bare.mkdir()
        for file in Path(model).iterdir():
            if file.suffix != ".safetensors":
                (bare / file.name).write_bytes(file.read_bytes())
        (tmp_path / "long.jsonl").write_text(f"{GOOD}\n\n{said(USER, ASSISTANT | {'content': 'the dog ' * 40})}")
        code, out, err = run("--model", str(bare), "--data", "long.jsonl", "--name", "mine")
        assert (code, out) == (2, "")
        assert "long.jsonl:3: has" in err and "tokens, and 60 are allowed; shorten or split it" in err
        code, _, err = run("--model", str(bare), "--data", "data.jsonl", "--name", "mine", "--batch-tokens", "8")
        assert code == 2 and "data.jsonl:1: has" in err and "and 8 are allowed; shorten or split it, or raise" in err

    @pytest.mark.parametrize(
        ("arguments", "sentence"),
        [
            (("--data", "data.jsonl"), "the adapter needs a name; give --name NAME"),
            (("--name", "a"), "there is nothing to learn from; give --data FILE"),
            (("--data", "data.jsonl", "--name", "a/b"), "a/b"),
            (("--data", "data.jsonl", "--name", "a", "--rank", "0"), "rank = 0 cannot be used; give a whole number"),
            (("--data", "data.jsonl", "--name", "a", "--kind", "loha"), "give one of lora, rslora, dora"),
            (("--data", "data.jsonl", "--name", "a", "--early-stop", "2"), "--early-stop goes by evaluations; give"),
            (
                ("--data", "data.jsonl", "--name", "a", "--eval", "data.jsonl", "--eval-share", "0.1"),
                "would draw others; give one",
            ),
            (("--data", "data.jsonl", "--name", "a", "--recipe", "no.toml"), "no.toml cannot be read"),
            (("--data", "data.jsonl", "--name", "a", "--recipe", "data.jsonl"), "data.jsonl is no TOML"),
            (("--data", "data.jsonl", "--name", "a", "--recipe", "bad.toml"), "'learning_rate' is no setting"),
        ],
        ids=lambda value: str(value)[-30:],
    )
    def test_what_cannot_be_a_run_is_refused(
        self, run: Run, untouched: None, tmp_path: Path, model: str, arguments: tuple[str, ...], sentence: str
    ) -> None:
        (tmp_path / "bad.toml").write_text("learning_rate = 1")
        code, out, err = run("--model", model, *arguments)
        assert (code, out) == (2, "") and sentence in err and len(err.splitlines()) == 1

    def test_a_sample_that_is_learned_is_no_evaluation(self, run: Run, untouched: None, model: str) -> None:
        code, _, err = run("--model", model, "--data", "data.jsonl", "--eval", "data.jsonl", "--name", "a")
        assert code == 2 and "data.jsonl:9: is in the training data, too (data.jsonl:3)" in err


class TestRuns:
    def test_the_last_line_tells_how_it_went(self, run: Run, quick: None, tmp_path: Path, model: str) -> None:
        found = run(
            "--model", model, "--data", "data.jsonl", "--name", "mine", *SMALL, "--steps", "30", "--lr", "5e-3",
            "--eval-share", "0.2", "--json",
        )  # fmt: skip
        result = last_json(found)
        adapter = tmp_path / "mp13" / "adapters" / "mine"
        assert result["adapter"] == str(adapter) and (adapter / "adapter_config.json").is_file()
        assert result["steps"] == 30 and result["tokens_per_s"] > 0
        assert result["last_loss"] < 0.7 * result["first_loss"] and result["eval_loss"] > 0
        assert json.loads((adapter / "adapter_config.json").read_text())["r"] == 4
        assert "step 30/30 · loss" in found.err and "tok/s" in found.err and "left" in found.err

    def test_a_name_that_is_taken_is_refused_with_the_fix(
        self, run: Run, quick: None, monkeypatch: pytest.MonkeyPatch, model: str
    ) -> None:
        arguments = ("--model", model, "--data", "data.jsonl", "--name", "mine", *SMALL, "--steps", "2")
        assert run(*arguments).code == 0
        monkeypatch.setattr(training, "run_worker", None)
        code, out, err = run(*arguments)
        assert code == 1 and out == ""
        assert "already holds a run; go on with it (--resume, in the chat resume=yes), or choose another name" in err

    def test_a_dry_run_tells_what_it_would_take_and_makes_nothing(
        self, run: Run, quick: None, tmp_path: Path, model: str
    ) -> None:
        arguments = ("--model", model, "--data", "data.jsonl", "--name", "mine", *SMALL, "--epochs", "2", "--dry-run")
        code, out, _ = run(*arguments)
        assert code == 0
        assert [line.split()[0] for line in out.splitlines()] == ["steps", "tokens", "memory", "time"]
        result = last_json(run(*arguments, "--json"))
        assert result["plan"]["total_steps"] == 2 * result["plan"]["steps_per_epoch"]
        assert result["memory_bytes"] > 0 and result["seconds"] > 0 and result["config"]["rank"] == 4
        assert not (tmp_path / "mp13" / "adapters" / "mine").exists()

    def test_flags_go_before_a_recipe_whose_files_lie_beside_it(
        self, run: Run, quick: None, tmp_path: Path, model: str
    ) -> None:
        (tmp_path / "recipes").mkdir()
        (tmp_path / "recipes" / "a.toml").write_text(
            f'name = "mine"\nmodel = "{model}"\ndata = "../data.jsonl"\nrank = 3\nsteps = 9\nmax_grad_norm = 0\n'
        )
        os.chdir(tmp_path / "recipes")
        config = last_json(run("--recipe", "a.toml", "--rank", "5", "--dry-run", "--json"))["config"]
        assert (config["rank"], config["steps"], config["max_grad_norm"]) == (5, 9, None)

    @pytest.mark.parametrize(
        ("targets", "meant"),
        [("q_proj,v_proj", {"q_proj", "v_proj"}), (r".*\.layers\.1\..*(up|down)_proj", {"up_proj", "down_proj"})],
    )
    def test_targets_are_names_or_a_pattern(
        self, run: Run, quick: None, tmp_path: Path, model: str, targets: str, meant: set[str]
    ) -> None:
        result = last_json(
            run(
                "--model", model, "--data", "data.jsonl", "--name", "mine", *SMALL, "--steps", "2",
                "--targets", targets, "--json",
            )
        )  # fmt: skip
        keys = load_file(Path(result["adapter"]) / "adapter_model.safetensors")
        assert {key.split(".")[-3] for key in keys} == meant


def command(tmp_path: Path, model: str, *more: str) -> list[str]:
    return [
        sys.executable, "-m", "mp13.chat.cli.mp13", "train", "--model", model, "--data", "data.jsonl", "--name",
        "mine", *SMALL, "--save-every", "5", "--json", *more,
    ]  # fmt: skip


def environment(tmp_path: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", "MP13_DATA_DIR": str(tmp_path / "mp13")}


@pytest.mark.slow
class TestProcesses:
    """As a shell starts it."""

    def start(self, tmp_path: Path, model: str, *more: str) -> "subprocess.Popen[str]":
        (tmp_path / "data.jsonl").write_text(DATA)
        return subprocess.Popen(
            command(tmp_path, model, *more), cwd=tmp_path, env=environment(tmp_path), text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip

    def until_saved(self, tmp_path: Path, process: "subprocess.Popen[str]") -> None:
        checkpoints = tmp_path / "mp13" / "adapters" / "mine" / "checkpoints"
        while not list(checkpoints.glob("step-*")):
            assert process.poll() is None, process.stderr and process.stderr.read()
            time.sleep(0.02)

    def test_ctrl_c_keeps_what_it_has_and_says_how_to_go_on(self, tmp_path: Path, model: str) -> None:
        process = self.start(tmp_path, model, "--steps", "100000")
        self.until_saved(tmp_path, process)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all of the group
        out, err = process.communicate(timeout=60)
        assert process.returncode == 130
        result = json.loads(out.splitlines()[-1])
        assert result["reason"] == "stopped" and Path(result["adapter"], "adapter_config.json").is_file()
        last = err.splitlines()[-1]
        assert f"step {result['steps']} is saved; to go on: mp13 train --model" in last and last.endswith("--resume")

    def test_after_kill_9_it_goes_on_to_the_same_bits(self, tmp_path: Path, model: str) -> None:
        (tmp_path / "whole").mkdir()
        (tmp_path / "killed").mkdir()
        whole = self.start(tmp_path / "whole", model, "--steps", "400")
        killed = self.start(tmp_path / "killed", model, "--steps", "400")
        self.until_saved(tmp_path / "killed", killed)
        children = [int(p) for p in Path(f"/proc/{killed.pid}/task/{killed.pid}/children").read_text().split()]
        os.killpg(killed.pid, signal.SIGKILL)
        killed.communicate(timeout=60)
        while any(map(is_alive, children)):
            time.sleep(0.02)
        folder = tmp_path / "killed" / "mp13" / "adapters" / "mine"
        assert not (folder / "adapter_config.json").exists(), "the run was over before it could be killed"
        resumed = self.start(tmp_path / "killed", model, "--steps", "400", "--resume")
        for process in (whole, resumed):
            out, err = process.communicate(timeout=300)
            assert process.returncode == 0, err
        assert json.loads(out)["steps"] == 400
        one, other = (load_file(tmp_path / n / "mp13/adapters/mine/adapter_model.safetensors") for n in
                      ("whole", "killed"))  # fmt: skip
        assert one.keys() == other.keys() and all(bool((one[key] == other[key]).all()) for key in one)

    def test_when_the_command_is_killed_the_run_saves_and_ends(self, tmp_path: Path, model: str) -> None:
        process = self.start(tmp_path, model, "--steps", "100000")
        self.until_saved(tmp_path, process)
        children = [int(p) for p in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
        process.kill()
        process.communicate(timeout=60)
        start = time.monotonic()
        while any(map(is_alive, children)) and time.monotonic() - start < 60:
            time.sleep(0.05)
        assert children and not any(map(is_alive, children))
        assert (tmp_path / "mp13" / "adapters" / "mine" / "adapter_config.json").is_file()
