"""A chat has the engine's process train: it hears how it goes, steers it, and leaves a whole checkpoint behind."""

import asyncio
import os
import re
import signal
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from safetensors.torch import load_file

from mp13.chat.cli.engines_cli import process_table
from mp13.engine.config import EngineConfig
from mp13.engine.training.rendering.request import Loss, RenderRequest
from mp13.engine.training.rendering.work import render_rows
from mp13.engine.training.sample import Message as Said
from mp13.engine.training.sample import Sample
from mp13.errors import ConfigError, Mp13Error, TrainingError
from mp13.library.data.tokens import staged
from mp13.service import launcher
from mp13.service.client import EngineClient
from mp13.service.processes import engine_processes
from mp13.service.schema import GenerateRequest, Message, SamplingParams
from mp13.service.training_schema import (
    PlannedEvent,
    PreviewRequest,
    PublishedEvent,
    SavedEvent,
    StateEvent,
    StepEvent,
    TrainingFinished,
    TrainingRequest,
)
from tests.engine.tiny_models import tiny_model, tiny_tokenizer
from tests.engine.tiny_tokenizers import TEMPLATES
from tests.service.conftest import seconds_until_gone

SETTINGS: dict[str, Any] = {"rank": 4, "steps": 6, "save_every": 2, "batch_tokens": 64}
SAMPLES = tuple({"text": f"the {word} is a {word}"} for word in ("sun", "sea", "sky", "cat"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"), "llama")


async def open_engine(model: Path) -> EngineClient:
    config = EngineConfig(str(model), dtype="float32", kv_cache_memory="256KiB", block_size=4, max_model_len=300)
    client = await launcher.connect(config)
    await client.hold()
    return client


def request(output: Path, steps: int = 6, **changes: Any) -> TrainingRequest:
    settings = {**SETTINGS, "steps": steps}
    return TrainingRequest(**{"name": "new", "output": str(output), "samples": SAMPLES, "settings": settings} | changes)


async def test_a_run_tells_all_that_it_does_and_its_adapter_is_loaded(model: Path, tmp_path: Path) -> None:
    client = await open_engine(model)
    try:
        assert await client.training.status() is None
        assert (await client.training.start(request(tmp_path / "out"))).name == "new"
        events = [event async for event in client.training.events()]
        assert {type(event) for event in events} == {
            PlannedEvent, StateEvent, StepEvent, SavedEvent, PublishedEvent, TrainingFinished,
        }  # fmt: skip
        assert [event.step for event in events if isinstance(event, StepEvent)] == [1, 2, 3, 4, 5, 6]
        names = {info.name for info in await client.adapters()}
        assert names == {"new", "new@2", "new@4", "new@6"}
        status = await client.training.status()
        assert status is not None and (status.state, status.step, status.total_steps) == ("finished", 6, 6)
        assert [event async for event in client.training.events()] == events  # who comes later hears the same
    finally:
        await client.close()


async def test_bad_requests_are_sentences(model: Path, tmp_path: Path) -> None:
    client = await open_engine(model)
    try:
        with pytest.raises(TrainingError, match="nothing is being trained"):
            await client.training.pause()
        with pytest.raises(ConfigError, match="either data or samples"):
            await client.training.start(request(tmp_path / "out", samples=None))
        with pytest.raises(ConfigError, match="no setting"):
            await client.training.start(request(tmp_path / "out", settings={"rnak": 3}))
        with pytest.raises(Mp13Error, match="jsonl:1"):
            await client.training.start(request(tmp_path / "out", samples=({"messages": []},)))
    finally:
        await client.close()


@pytest.mark.parametrize("template", ["chatml", "alpaca"])
async def test_a_preview_is_token_for_token_that_of_mp13_data(tmp_path: Path, template: str) -> None:
    model = tiny_model(tmp_path / "model", "llama")
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = TEMPLATES[template]
    tokenizer.save_pretrained(model)
    talk = Said("user", "hello"), Said("assistant", "the dog", False), Said("user", "a"), Said("assistant", "dogs")
    samples = Sample("a", 1, talk), Sample("a", 2, text="the fox"), Sample("a", 3, prompt="the", text=" fox")
    client = await open_engine(model)
    try:
        previews = {
            loss: await client.training.preview(PreviewRequest(samples=samples, loss=loss)) for loss in get_args(Loss)
        }
    finally:
        await client.close()
    for loss, preview in previews.items():
        with staged(samples) as rows:
            shown = render_rows(RenderRequest(str(model), rows.path, loss, with_tokens=True), lambda *_: None)
        assert (preview.samples, preview.problems, preview.notes) == (shown.samples, shown.problems, shown.notes)
    learned = [
        "".join(text for text, is_learned in zip(sequence.texts, sequence.mask, strict=True) if is_learned)
        for sample in previews["assistant"].samples
        for sequence in sample.sequences
    ]
    assert learned == ["dogs<|im_end|>", " fox<|im_end|>", " fox<|im_end|>"]


async def test_a_list_of_engines_tells_that_one_trains(model: Path, tmp_path: Path) -> None:
    client = await open_engine(model)
    try:
        await client.training.start(request(tmp_path / "out", 5000))
        async with asyncio.timeout(60):
            while not (await client.health()).training_step:
                await asyncio.sleep(0.01)
        _, row, detail = process_table(await engine_processes()).splitlines()
        assert row.split()[1] == "training"
        assert re.search(r": trains new, step [1-9]\d* of 5000; ", detail)
        await client.training.cancel()
        assert [event async for event in client.training.events()][-1].type == "finished"
        _, row, detail = process_table(await engine_processes()).splitlines()
        assert row.split()[1] == "ready" and "trains" not in detail
    finally:
        await client.close()


async def test_an_engine_that_is_killed_leaves_a_whole_checkpoint_to_go_on_from(model: Path, tmp_path: Path) -> None:
    settings = {**SETTINGS, "steps": 300, "save_every": 6, "keep": 100}  # it is to be killed before its last step
    killed = await open_engine(model)
    pid = (await killed.health()).pid
    await killed.training.start(request(tmp_path / "out", settings=settings))
    with pytest.raises(Mp13Error, match="engine"):
        async for event in killed.training.events():
            if isinstance(event, SavedEvent):
                os.kill(pid, signal.SIGKILL)
    await killed.close()
    client = await open_engine(model)
    try:
        asked = GenerateRequest(
            messages=(Message(role="user", content="the sun"),), sampling=SamplingParams(temperature=0, max_tokens=4)
        )
        assert [event async for event in client.generate(asked)]
        for name in ("out", "unbroken"):
            resume = name == "out"
            await client.training.start(request(tmp_path / name, settings=settings, resume=resume))
            events = [event async for event in client.training.events()]
            (planned,) = (event for event in events if isinstance(event, PlannedEvent))
            assert (planned.from_step >= 6) if resume else (planned.from_step == 0)
            assert planned.from_step < 300 and isinstance(events[-1], TrainingFinished) and events[-1].step == 300
        one, two = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("out", "unbroken"))
        assert one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)
    finally:
        await client.close()


async def test_the_last_chat_leaves_and_the_run_can_be_resumed(model: Path, tmp_path: Path) -> None:
    client = await open_engine(model)
    pid = (await client.health()).pid
    await client.training.start(
        request(tmp_path / "out", 5000, settings={**SETTINGS, "steps": 5000, "save_every": 5000})
    )
    async with asyncio.timeout(60):
        while not (await client.health()).training_step:
            await asyncio.sleep(0.01)
    health = await client.health()
    assert health.training == "new" and health.training_steps == 5000
    await client.close()
    assert seconds_until_gone(pid) < 8
    assert list((tmp_path / "out" / "checkpoints").glob("step-*/adapter_config.json"))
    client = await open_engine(model)
    try:
        await client.training.start(request(tmp_path / "out", settings={}, resume=True))
        async for event in client.training.events():
            if isinstance(event, PlannedEvent):
                assert event.from_step > 0
                await client.training.cancel()
    finally:
        await client.close()
