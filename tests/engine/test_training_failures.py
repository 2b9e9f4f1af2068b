"""What goes wrong in a run inside an engine ends it with a sentence and a whole last checkpoint; answers go on."""

import asyncio
import errno
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mp13 import AsyncEngine
from mp13.engine.training import checkpoints, peft_folder
from mp13.engine.training.checkpoints import RunFolder
from mp13.engine.training.events import Failed, Finished, Note, Published, Saved, StepDone
from mp13.engine.training.optimizer import Optimizer
from mp13.engine.training.passes import Passes
from mp13.errors import AdapterError, ConfigError, TrainingError
from tests.engine.test_training_beside import Told, answer, engine, folder, over, started
from tests.engine.test_training_runs import OUT_OF_MEMORY
from tests.engine.tiny_models import assert_greedy_matches, reference_model

__all__ = ["engine", "folder"]  # fixtures
Patch = pytest.MonkeyPatch
PROMPT = [5, 6, 7, 8]  # that `answer` asks


def after(calls: int, real: Callable[..., Any], then: Callable[..., Any]) -> Callable[..., Any]:
    """`real` so many times, then `then`."""
    left = [calls]

    def either(*arguments: Any, **named: Any) -> Any:
        left[0] -= 1
        return real(*arguments, **named) if left[0] >= 0 else then(*arguments, **named)

    return either


def raising(error: BaseException) -> Callable[..., Any]:
    def fail(*arguments: Any, **named: Any) -> Any:
        raise error

    return fail


def no_space(*arguments: Any, **named: Any) -> Any:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


async def failed(engine: AsyncEngine, output: Path, **settings: Any) -> tuple[str, list[int]]:
    """The sentence, and the steps whose checkpoints are there; answers were the same all along, and a run that goes on
    from the last checkpoint reaches its end."""
    before = await answer(engine, "a")
    run, told = await started(engine, output, settings=settings)
    while not run.is_over:
        assert await answer(engine, "a") == before
    assert run.state == "failed" and not told.of(Finished)
    (end,) = told.of(Failed)
    assert told.events[-1] == end and await answer(engine, "a") == before
    steps = sorted(int(path.parent.name[5:]) for path in (output / "checkpoints").glob("step-*/training.json"))
    assert steps == [event.step for event in told.of(Saved)]
    assert not list(output.rglob(".writing-*"))
    return end.message, steps


async def published(run: Any, told: Told, count: int) -> None:
    async with asyncio.timeout(30):
        while len(told.of(Published)) < count:
            assert not run.is_over
            await asyncio.sleep(0.001)


async def goes_on(engine: AsyncEngine, output: Path, step: int) -> None:
    """The last checkpoint is an adapter that PEFT reads as we do, and the run goes on from it to its end."""
    last = RunFolder(output).last()
    await engine.load_adapter(last, "kept")
    assert_greedy_matches(reference_model(Path(engine.info.model), [(last, 1.0)]), PROMPT, await answer(engine, "kept"))
    run, told = await started(engine, output, resume=True)
    await over(run)
    assert told.of(StepDone)[0].step == step + 1 and told.of(Finished)[0].reason == "done"
    assert await answer(engine, "new")


# The rehearsal computes two rows before the first step; every step here is one row.
async def test_a_loss_that_is_no_number(engine: AsyncEngine, tmp_path: Path, monkeypatch: Patch) -> None:
    with monkeypatch.context() as patch:
        real = Passes.backward
        nothing = torch.tensor(math.nan)
        patch.setattr(Passes, "backward", after(6, real, lambda *_: nothing))
        message, steps = await failed(engine, tmp_path / "out")
    assert "the loss at step 5 is not a finite number; train anew under another name" in message and steps == [2, 4]
    assert f"the last checkpoint is {tmp_path / 'out' / 'checkpoints' / 'step-00000004'}" in message
    await goes_on(engine, tmp_path / "out", 4)


async def test_a_gradient_that_is_no_number(engine: AsyncEngine, tmp_path: Path, monkeypatch: Patch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Optimizer, "step", after(4, Optimizer.step, lambda *_: math.inf))
        message, steps = await failed(engine, tmp_path / "out")
    assert "the gradient at step 5 is not a finite number" in message and steps == [2, 4]
    await goes_on(engine, tmp_path / "out", 4)


@pytest.mark.parametrize("error", OUT_OF_MEMORY)
async def test_memory_that_runs_out(
    engine: AsyncEngine, tmp_path: Path, monkeypatch: Patch, error: BaseException
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Passes, "backward", after(5, Passes.backward, raising(error)))
        message, steps = await failed(engine, tmp_path / "out")
    assert "memory ran out at step 4, with rows of up to 64 tokens; end what else runs there" in message
    assert steps == [2]
    await goes_on(engine, tmp_path / "out", 2)


async def test_memory_that_runs_out_in_the_rehearsal(engine: AsyncEngine, tmp_path: Path, monkeypatch: Patch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Passes, "backward", raising(MemoryError()))
        message, steps = await failed(engine, tmp_path / "out")
    assert "memory ran out at step 1" in message and "it had saved nothing yet" in message and steps == []


@pytest.mark.parametrize("where", ["optimizer", "fsync"])
async def test_a_disk_that_is_full_at_a_checkpoint(
    engine: AsyncEngine, tmp_path: Path, monkeypatch: Patch, where: str
) -> None:
    with monkeypatch.context() as patch:
        if where == "optimizer":
            patch.setattr(Optimizer, "save", after(2, Optimizer.save, no_space))
        else:  # 5 files and 2 folders of each checkpoint
            patch.setattr(checkpoints.os, "fsync", after(16, os.fsync, no_space))
        message, steps = await failed(engine, tmp_path / "out")
    assert "the checkpoint of step 6 cannot be written (No space left on device)" in message and steps == [2, 4]
    await goes_on(engine, tmp_path / "out", 4)


async def test_an_unexpected_error_is_in_the_log(
    engine: AsyncEngine, tmp_path: Path, monkeypatch: Patch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Passes, "backward", after(4, Passes.backward, raising(KeyError("odd"))))
        message, steps = await failed(engine, tmp_path / "out")
    assert "unexpected KeyError ('odd'); see the log" in message and steps == [2]
    assert any(record.exc_info and record.exc_info[0] is KeyError for record in caplog.records)


async def test_a_version_that_cannot_be_written_is_not_published_and_the_run_goes_on(
    engine: AsyncEngine, tmp_path: Path, monkeypatch: Patch
) -> None:
    real = peft_folder.save_file

    def full_for_step_2(tensors: Any, path: Path, **named: Any) -> None:
        real(tensors, path, **named)  # half of the folder is there by then
        if path.parent.name == "new@2":
            no_space()

    monkeypatch.setattr(peft_folder, "save_file", full_for_step_2)
    run, told = await started(engine, tmp_path / "out")
    await over(run)
    assert [note.message for note in told.of(Note)] == [
        "new@2 could not be published ([Errno 28] No space left on device); the run goes on"
    ]
    assert [event.step for event in told.of(Published)] == [4, 6]
    assert sorted(path.name for path in Path(run._versions.name).iterdir()) == ["new@4", "new@6"]
    assert told.of(Finished)[0].reason == "done"


async def test_a_version_that_somebody_unloads_hinders_neither_the_next_nor_the_end(
    engine: AsyncEngine, tmp_path: Path
) -> None:
    run, told = await started(engine, tmp_path / "out", publish_every=1, settings={"steps": 400})
    await published(run, told, 2)
    name = told.of(Published)[-1].name
    await engine.unload_adapter(name)
    with pytest.raises(AdapterError, match=f"no adapter '{name}' is loaded"):
        await engine.unload_adapter(name)
    await published(run, told, len(told.of(Published)) + 5)
    await engine.unload_adapter(run.published[-1])
    await engine.steer_training("cancel")
    await over(run)
    assert told.of(Finished)[0].reason == "cancelled" and not told.of(Failed) and not told.of(Note)
    assert [info.name for info in engine.adapters] == ["a"]


async def test_no_two_runs_write_into_one_folder(engine: AsyncEngine, tmp_path: Path) -> None:
    output = RunFolder(tmp_path / "out")
    with output.alone(), pytest.raises(TrainingError, match=r"another run is writing into .*out; wait for it"):
        await started(engine, tmp_path / "out")
    run, told = await started(engine, tmp_path / "out", settings={"steps": 400})
    with pytest.raises(TrainingError, match="another run is writing"), output.alone():
        pass
    await published(run, told, 1)
    await engine.steer_training("stop")
    await over(run)
    with output.alone():
        assert output.steps()
    run, _ = await started(engine, tmp_path / "gone", settings={"steps": 400})
    await engine.steer_training("cancel")
    await over(run)
    with pytest.raises(ConfigError):
        await started(engine, tmp_path / "gone", settings={"rank": 1000})
    assert not (tmp_path / "gone").exists()


async def test_dropped_versions_leave_no_files(engine: AsyncEngine, tmp_path: Path) -> None:
    run, _ = await started(engine, tmp_path / "out", publish_every=1, settings={"steps": 9})
    await over(run)
    assert {path.name for path in Path(run._versions.name).iterdir()} == set(run.published)
