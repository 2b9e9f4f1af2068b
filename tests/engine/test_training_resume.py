"""A run that is killed, wherever, goes on from its last checkpoint and ends with the weights of one that is not."""

import multiprocessing
import os
import random
import signal
from pathlib import Path

import pytest

from mp13.engine.training.checkpoints import RunFolder
from mp13.engine.training.record import RunRecord
from tests.engine.killed_run import STEPS, main, train
from tests.engine.tiny_models import tiny_model

pytestmark = pytest.mark.skipif(os.name == "nt", reason="there is no SIGKILL")
MOMENTS = 45  # of 160 in the whole run: a checkpoint or two
FEWEST = 12  # of a step: two rows, each through two layers and the head and back


def killed(model: Path, output: Path, moment: int) -> bool:
    """Go on with the run until that moment; whether it came to it."""
    forks = multiprocessing.get_context("forkserver")  # of one process that has imported torch, but computed nothing
    forks.set_forkserver_preload(["tests.engine.killed_run"])
    process = forks.Process(target=main, args=(model, output, moment))
    process.start()
    process.join(300)
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


def kill_often(folder: Path, times: int, seed: int) -> None:
    model, draw = tiny_model(folder / "model", "llama"), random.Random(seed)
    output = folder / "broken"
    for _ in range(times):
        left = STEPS - max(RunFolder(output).steps(), default=0)
        moment = draw.randint(1, max(1, min(MOMENTS, FEWEST * left)))  # the end itself has some, too
        assert killed(model, output, moment), "the run was over before it could be killed"
        if RunFolder(output).steps():  # whatever there is, is whole
            assert RunRecord.read(RunFolder(output).last()).step == RunFolder(output).steps()[-1]
    assert not killed(model, output, 1 << 30)
    assert_as_unbroken(model, output, folder / "unbroken")


def assert_as_unbroken(model: Path, output: Path, unbroken: Path) -> None:
    train(model, unbroken)
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (output / name).read_bytes() == (unbroken / name).read_bytes()
    one, other = RunRecord.read(output), RunRecord.read(unbroken)
    assert (one.losses, one.evals, one.from_step) == (other.losses, other.evals, other.from_step)
    last = RunFolder(unbroken).steps()[-1]
    for name in ("optimizer.safetensors", "adapter_model.safetensors"):
        both = [(RunFolder(path).checkpoint(last) / name).read_bytes() for path in (output, unbroken)]
        assert both[0] == both[1]
    left = [path.name for path in output.rglob("*") if "writing" in path.name]
    assert not left


def test_three_kills_change_no_bit(tmp_path: Path) -> None:
    kill_often(tmp_path, 3, seed=5)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(4))
def test_twenty_kills_change_no_bit(tmp_path: Path, seed: int) -> None:
    """Twenty in all, at moments of any kind."""
    kill_often(tmp_path, 5, seed=100 + seed)


@pytest.mark.soak
def test_a_kill_at_each_moment_of_a_checkpoint_leaves_it_whole_or_not_there(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "model", "llama")
    first_checkpoint = 2 * 2 * 5
    for moment in range(first_checkpoint, first_checkpoint + 10):
        output = tmp_path / str(moment)
        assert killed(model, output, moment)
        assert not killed(model, output, 1 << 30)
        assert_as_unbroken(model, output, tmp_path / f"unbroken-{moment}")
