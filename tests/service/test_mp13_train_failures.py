"""What goes wrong in `mp13 train` ends it with a sentence: the cause, what to do, and the last checkpoint, which PEFT
opens."""

import json
import math
import os
import resource
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from mp13.engine.training.checkpoints import RunFolder
from mp13.engine.training.passes import Passes
from tests.engine.test_training_failures import after, raising
from tests.engine.test_training_runs import OUT_OF_MEMORY
from tests.engine.tiny_models import reference_logits, reference_model, tiny_model, tiny_tokenizer
from tests.fakes.command import Outcome
from tests.service.broken_data import ASSISTANT, USER, said
from tests.service.conftest import is_alive
from tests.service.test_mp13_train import DATA, SMALL, command, environment, last_json, model, quick, run

__all__ = ["model", "quick", "run"]  # fixtures
Run = Callable[..., Outcome]
OVERFLOWING = said(USER, ASSISTANT | {"content": "the dog Z"})


def mine(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "mp13" / "adapters" / "mine")


def overflowing_model(folder: Path) -> Path:
    """Of which one token, in `OVERFLOWING`, is infinitely long: no loss of a text with it is a number."""
    weights = tiny_model(folder, max_position_embeddings=300) / "model.safetensors"
    tensors = load_file(weights)
    (token,) = tiny_tokenizer().encode("Z")
    tensors["model.embed_tokens.weight"][token] = math.inf
    save_file(tensors, weights, {"format": "pt"})
    return folder


def assert_opens_in_peft(folder: Path, model: str) -> None:
    """And changes what the base says."""
    base, learned = (reference_model(Path(model), adapters) for adapters in ((), [(folder, 1.0)]))
    one, other = (reference_logits(one, [5, 6, 7, 8]) for one in (base, learned))
    assert bool(other.isfinite().all()) and not torch.equal(one, other)


def ended(run: Run, model: str, *more: str) -> str:
    """The last line of a run that cannot go on."""
    code, out, err = run("--model", model, "--data", "data.jsonl", "--name", "mine", *SMALL, *more)
    assert (code, out) == (1, "")
    return err.splitlines()[-1]


class TestInTheRun:
    def test_numbers_that_overflow_are_not_gone_on_from(self, run: Run, quick: None, tmp_path: Path) -> None:
        model = str(overflowing_model(tmp_path / "model"))
        (tmp_path / "data.jsonl").write_text("\n".join([DATA, OVERFLOWING]))
        last = ended(
            run, model, "--steps", "9", "--batch-rows", "1", "--save-every", "1", "--lr", "5e-3", "--seed", "1"
        )
        steps = mine(tmp_path).steps()
        assert steps and steps[-1] < 9
        assert last == (
            f"mp13 train: the loss at step {steps[-1] + 1} is not a finite number; train anew under another name, with "
            f"a learning rate below 0.005, or look at the data; the last checkpoint is {mine(tmp_path).last()}"
        )
        assert_opens_in_peft(mine(tmp_path).last(), model)

    @pytest.mark.parametrize("error", OUT_OF_MEMORY)
    def test_memory_that_runs_out(
        self, run: Run, quick: None, tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch, error: Exception
    ) -> None:
        how = ("--steps", "6", "--save-every", "2", "--lr", "5e-3")
        with monkeypatch.context() as patch:
            patch.setattr(Passes, "backward", after(4, Passes.backward, raising(error)))
            last = ended(run, model, *how)
        assert "memory ran out at step 5, with rows of up to 64 tokens; end what else runs there, turn" in last
        assert f"; the last checkpoint is {mine(tmp_path).last()}; to go on from it: mp13 train --model" in last
        assert_opens_in_peft(mine(tmp_path).last(), model)
        words = shlex.split(last.rpartition("to go on from it: ")[2])
        assert last_json(run(*words[2:], "--gradient-checkpointing", "--json"))["steps"] == 6

    def test_a_full_disk_before_the_first_checkpoint_leaves_nothing(
        self, run: Run, quick: None, tmp_path: Path, model: str
    ) -> None:
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)  # stands for the end of the disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (8000, limits[1]))
        try:
            last = ended(run, model, "--steps", "4", "--save-every", "2")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert "the checkpoint of step 2 cannot be written (" in last and last.endswith("it had saved nothing yet")
        assert not mine(tmp_path).output.exists()


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="limits of another process are Linux's")
class TestOfTheProcess:
    """The process that trains, as a shell's command starts it, in trouble of its own."""

    def trained_until(self, tmp_path: Path, model: str, trouble: Callable[[int], Any]) -> str:
        """The last line of a run that gets into trouble after its first checkpoint."""
        (tmp_path / "data.jsonl").write_text(DATA)
        process = subprocess.Popen(
            command(tmp_path, model, "--steps", "100000"), cwd=tmp_path, env=environment(tmp_path), text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        while not mine(tmp_path).steps():
            assert process.poll() is None, process.stderr and process.stderr.read()
            time.sleep(0.02)
        (child,) = map(int, Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split())
        trouble(child)
        out, err = process.communicate(timeout=120)
        assert (process.returncode, out) == (1, "") and not is_alive(child)
        assert not list(mine(tmp_path).output.rglob(".writing-*")) or "was killed" in err
        assert_opens_in_peft(mine(tmp_path).last(), model)
        last: str = err.splitlines()[-1]
        assert f"; the last checkpoint is {mine(tmp_path).last()}; to go on from it: mp13 train --model" in last
        return last

    def goes_on(self, tmp_path: Path, line: str) -> None:
        """By the command that was proposed, to an end that is near."""
        last = mine(tmp_path).steps()[-1]
        words = shlex.split(line.rpartition("to go on from it: mp13 ")[2])
        process = subprocess.Popen(
            [sys.executable, "-m", "mp13.chat.cli.mp13", *words], cwd=tmp_path, env=environment(tmp_path), text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        while mine(tmp_path).steps()[-1] <= last:
            assert process.poll() is None, process.stderr and process.stderr.read()
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 130, err
        assert json.loads(out.splitlines()[-1])["steps"] > last
        assert_opens_in_peft(mine(tmp_path).output, str(words[words.index("--model") + 1]))

    def test_a_disk_that_is_full(self, tmp_path: Path, model: str) -> None:
        last = self.trained_until(
            tmp_path, model, lambda child: resource.prlimit(child, resource.RLIMIT_FSIZE, (8000, 8000))
        )
        assert last.startswith("mp13 train: the checkpoint of step ") and " cannot be written (" in last
        self.goes_on(tmp_path, last)

    def test_a_process_that_the_system_kills(self, tmp_path: Path, model: str) -> None:
        last = self.trained_until(tmp_path, model, lambda child: os.kill(child, signal.SIGKILL))
        assert last.startswith(
            "mp13 train: the process that trained was killed, as the system does when memory runs out; the last "
        )
        self.goes_on(tmp_path, last)
