"""An adapter trains inside the engine that answers: neither disturbs the other, and its versions can be talked to."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mp13 import LLM, AsyncEngine, SamplingParams
from mp13.engine.request import FinishEvent
from mp13.engine.training.events import Finished, Published, RunEvent, Saved, StateChanged, StepDone
from mp13.engine.training.job import TrainingJob
from mp13.engine.training.sample import Sample
from mp13.engine.training_run import KEPT_VERSIONS
from mp13.errors import ConfigError, MixError, TrainingError
from tests.engine.tiny_models import LLAMA_LINEARS, tiny_adapter, tiny_model

OPTIONS: dict[str, Any] = {"dtype": "float32", "kv_cache_memory": "256KiB", "block_size": 4, "max_model_len": 300}
GREEDY = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)
SETTINGS = {"rank": 4, "lr": 5e-3, "batch_tokens": 64, "steps": 6, "save_every": 2, "keep": 9}
SAMPLES = [
    Sample("s", i, text=f"the {word} is a {word} and a {word}") for i, word in enumerate("sun sea sky cat".split())
]
MIXES = ["base", "a", "a:0.5"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("beside")
    tiny_model(folder / "model")
    tiny_adapter(folder / "a", folder / "model", targets=LLAMA_LINEARS, seed=0, rank=3)
    return folder


@pytest.fixture
async def engine(folder: Path) -> AsyncIterator[AsyncEngine]:
    engine = AsyncEngine(folder / "model", **OPTIONS)
    await engine.load_adapter(folder / "a")
    yield engine
    await engine.close()


class Told:
    def __init__(self) -> None:
        self.events: list[RunEvent] = []

    def of(self, kind: type) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


async def started(engine: AsyncEngine, output: Path, **changes: Any) -> tuple[Any, Told]:
    told = Told()
    settings = {**SETTINGS, **changes.pop("settings", {})}
    job = TrainingJob("new", output, SAMPLES, settings=settings, **{"publish_every": 2, **changes})
    return await engine.start_training(job, told.events.append), told


async def over(run: Any) -> None:
    async with asyncio.timeout(60):
        while not run.is_over:
            await asyncio.sleep(0.005)


async def answer(engine: AsyncEngine, mix: str, prompt: list[int] | None = None) -> list[int]:
    async for event in engine.generate(prompt or [5, 6, 7, 8], GREEDY, mix):
        if isinstance(event, FinishEvent):
            return event.output.token_ids
    raise AssertionError("no end")


async def test_answers_given_while_it_trains_are_those_of_an_engine_that_does_not(
    engine: AsyncEngine, folder: Path, tmp_path: Path
) -> None:
    llm = LLM(folder / "model", **OPTIONS)
    llm.load_adapter(folder / "a")
    run, _ = await started(engine, tmp_path / "out", settings={"steps": 40})
    count = 0
    while not run.is_over:
        mix, prompt = MIXES[count % 3], [5 + count % 20, 6, 7, 8]
        assert await answer(engine, mix, prompt) == llm.generate([prompt], GREEDY, mix)[0].token_ids
        count += 1
    assert count > 3


async def test_its_weights_are_those_of_a_run_that_nobody_disturbed(
    engine: AsyncEngine, folder: Path, tmp_path: Path
) -> None:
    alone, _ = await started(engine, tmp_path / "alone")
    await over(alone)
    beside, told = await started(engine, tmp_path / "beside")
    await asyncio.gather(*(answer(engine, mix) for mix in MIXES * 3))
    await engine.steer_training("pause") if not beside.is_over else None
    assert beside.is_over or told.of(StateChanged)[-1].state == "paused"
    if not beside.is_over:
        await engine.steer_training("go_on")
    await over(beside)
    one, other = (load_file(tmp_path / n / "adapter_model.safetensors") for n in ("alone", "beside"))
    assert all(torch.equal(one[key], other[key]) for key in one)


async def test_a_version_is_the_checkpoint_of_its_step_and_the_latest_is_named_in_the_answer(
    engine: AsyncEngine, tmp_path: Path
) -> None:
    run, told = await started(engine, tmp_path / "out")
    await over(run)
    for saved in told.of(Saved):
        info = await engine.load_adapter(saved.path, f"saved{saved.step}")
        assert info.digest == next(p.digest for p in told.of(Published) if p.step == saved.step)
    assert await answer(engine, "new@latest") == await answer(engine, "new@6") == await answer(engine, "new")
    async for event in engine.generate([5, 6], GREEDY, "new@latest"):
        if isinstance(event, FinishEvent):
            assert event.output.adapters == "new@6"
    with pytest.raises(MixError, match="twice"):
        await answer(engine, "new@latest+new@6")
    with pytest.raises(MixError, match="no version yet"):
        await answer(engine, "a@latest")


async def test_only_so_many_versions_are_kept(engine: AsyncEngine, tmp_path: Path) -> None:
    run, told = await started(engine, tmp_path / "out", publish_every=1, settings={"steps": 9})
    await over(run)
    assert run.published == [f"new@{step}" for step in range(10 - KEPT_VERSIONS, 10)]
    assert [name for event in told.of(Published) for name in event.dropped] == [f"new@{s}" for s in range(1, 6)]


async def test_between_two_pieces_the_engine_serves_whoever_waits(engine: AsyncEngine, tmp_path: Path) -> None:
    order: list[str] = []
    step, serve = engine._core.step, engine._thread.serve
    engine._core.step = lambda: (order.append("step"), step())[1]  # type: ignore[method-assign]
    engine._thread.serve = lambda s: (order.append("gate" if engine._core.has_work() else "idle"), serve(s))[1]  # type: ignore[method-assign]
    run, _ = await started(engine, tmp_path / "out", settings={"steps": 60})
    while not run.is_over:
        await answer(engine, "base")
    gates = [i for i, what in enumerate(order) if what == "gate"]
    assert len(gates) > 3
    assert all(order[i + 1] == "step" for i in gates)


async def test_it_is_parked_when_the_engine_ends_and_goes_on_to_the_same_bits(
    engine: AsyncEngine, folder: Path, tmp_path: Path
) -> None:
    whole, _ = await started(engine, tmp_path / "whole", settings={"steps": 30, "save_every": 100})
    await over(whole)
    run, told = await started(engine, tmp_path / "out", settings={"steps": 30, "save_every": 100})
    async with asyncio.timeout(30):
        while not told.of(StepDone):
            await asyncio.sleep(0.001)
    await engine.close()
    end = told.of(Finished)[0]
    assert end.reason == "parked" and end.path is None and 0 < end.step < 30
    other = AsyncEngine(folder / "model", **OPTIONS)
    run, told = await started(other, tmp_path / "out", settings={"steps": 30, "save_every": 100}, resume=True)
    await over(run)
    await other.close()
    assert told.of(StepDone)[0].step == end.step + 1
    one, two = (load_file(tmp_path / n / "adapter_model.safetensors") for n in ("whole", "out"))
    assert all(torch.equal(one[key], two[key]) for key in one)


async def test_cancelled_it_leaves_nothing(engine: AsyncEngine, tmp_path: Path) -> None:
    run, told = await started(engine, tmp_path / "out", settings={"steps": 500})
    while not told.of(Published):
        await asyncio.sleep(0.001)
    await engine.steer_training("cancel")
    await over(run)
    assert not (tmp_path / "out").exists() and [info.name for info in engine.adapters] == ["a"]


async def test_what_cannot_run_is_refused_and_answers_go_on(engine: AsyncEngine, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="max_lora_rank"):
        await started(engine, tmp_path / "out", settings={"rank": 100})
    with pytest.raises(TrainingError, match="free; lower"):
        await started(engine, tmp_path / "out", settings={"batch_tokens": 1 << 50})
    with pytest.raises(TrainingError, match="nothing is being trained"):
        await engine.steer_training("stop")
    assert await answer(engine, "a")
