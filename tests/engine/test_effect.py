"""What an adapter does is measured without being asked; one that does nothing is called so."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from mp13 import LLM, AsyncEngine, SamplingParams
from mp13.engine.config import EngineConfig
from mp13.engine.core import EngineCore
from mp13.engine.effect import EffectCheck
from mp13.engine.request import NO_EFFECT, AdapterInfo, FinishEvent
from tests.engine.tiny_models import (
    HAS_ALORA,
    LLAMA_LINEARS,
    reference_logits,
    reference_model,
    tiny_adapter,
    tiny_model,
)

OPTIONS: dict[str, Any] = {"dtype": "float32", "block_size": 4, "kv_cache_memory": "256KiB", "max_model_len": 300}
LONG = SamplingParams(temperature=0, max_tokens=200, ignore_eos=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("effect")
    tiny_model(folder / "model")
    for seed, name in enumerate("abc"):
        tiny_adapter(folder / name, folder / "model", targets=LLAMA_LINEARS, seed=seed)
    return folder


def core_of(folder: Path, **options: Any) -> EngineCore:
    return EngineCore(EngineConfig(str(folder / "model"), **{**OPTIONS, **options}))


def change(adapter: Path, **fields: Any) -> Path:
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
    return adapter


def zero(adapter: Path, side: str) -> Path:
    tensors = load_file(adapter / "adapter_model.safetensors")
    zeroed = {name: torch.zeros_like(t) if side in name else t for name, t in tensors.items()}
    save_file(zeroed, adapter / "adapter_model.safetensors")
    return adapter


def finish(core: EngineCore) -> None:
    while core.has_work():
        core.step()
    assert core.pool.num_free == core.pool.num_blocks
    assert core.adapters.slots.num_pins == 0 and not +core.adapters._users


def test_the_effect_is_the_divergence_from_the_base_over_the_probe(folder: Path) -> None:
    llm = LLM(folder / "model", **OPTIONS)
    probe = llm._core.effects._probe
    assert len(set(probe)) == 6 and all(0 <= token_id < 320 for token_id in probe)
    base = reference_logits(reference_model(folder / "model"), probe).log_softmax(-1)
    for name in "ab":
        info = llm.load_adapter(folder / name)
        adapted = reference_logits(reference_model(folder / "model", [(folder / name, 1.0)]), probe).log_softmax(-1)
        expected = float((adapted.exp() * (adapted - base)).sum(-1).mean())
        assert info.effect == pytest.approx(expected, rel=1e-3) and info.effect > 0.1
        assert info in llm.adapters


@pytest.mark.skipif(not HAS_ALORA, reason="this PEFT knows no activated LoRA")
def test_an_activated_lora_is_invoked_to_be_measured(folder: Path, tmp_path: Path) -> None:
    llm = LLM(folder / "model", **OPTIONS)
    made = tiny_adapter(tmp_path / "active", folder / "model", targets=LLAMA_LINEARS, alora_invocation_tokens=[7, 8])
    effect = llm.load_adapter(made).effect
    assert effect is not None and effect > 0.1
    assert llm.load_adapter(zero(made, "lora_B"), "idle").effect == 0
    assert llm.load_adapter(folder / "a").effect == LLM(folder / "model", **OPTIONS).load_adapter(folder / "a").effect


@pytest.mark.parametrize("vocab_size", [1, 5, 320, 262_144])
def test_the_probe_is_of_any_vocabulary(vocab_size: int) -> None:
    probe = EffectCheck(None, None, vocab_size)._probe  # type: ignore[arg-type]
    assert len(probe) == 6 and all(0 <= token_id < vocab_size for token_id in probe)


@pytest.mark.parametrize("family", ["llama", "gemma2"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("how", ["B is 0", "A is 0", "the scale is 0"])
def test_an_adapter_that_changes_nothing_is_called_so(
    how: str, dtype: str, family: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tiny_model(tmp_path / "model", family)
    adapter = tiny_adapter(tmp_path / "idle", tmp_path / "model")
    match how:
        case "B is 0":
            zero(adapter, "lora_B")
        case "A is 0":
            zero(adapter, "lora_A")
        case "the scale is 0":
            change(adapter, lora_alpha=0)
    llm = LLM(tmp_path / "model", dtype=dtype, kv_cache_memory="1MiB")
    with caplog.at_level(logging.WARNING):
        info = llm.load_adapter(adapter)
    assert info.effect == 0 < NO_EFFECT
    [warning] = caplog.messages
    assert "adapter 'idle' changes nothing measurable" in warning


def test_an_adapter_that_changes_something_is_not_warned_of(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert LLM(folder / "model", **OPTIONS).load_adapter(folder / "a").effect
    assert not caplog.messages


def test_a_small_change_is_told_from_none(folder: Path, tmp_path: Path) -> None:
    small = change(tiny_adapter(tmp_path / "small", folder / "model", rank=8, alpha=8), lora_alpha=0.1)
    effect = LLM(folder / "model", **OPTIONS).load_adapter(small).effect
    assert effect is not None and NO_EFFECT < effect < 0.1


def test_the_same_content_is_measured_once_and_the_base_once_for_all(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    core = core_of(folder)
    real, passes = core.runner.logits, []
    monkeypatch.setattr(core.runner, "logits", lambda batch: (passes.append(batch), real(batch))[1])
    for name in ("one", "two", "three"):
        core.load_adapter(folder / "a", name)
    core.load_adapter(folder / "b")
    finish(core)
    assert len(passes) == 3  # a, b and the base
    assert len({info.effect for info in core.adapters.infos}) == 2
    core.load_adapter(folder / "a", "four")
    assert not core.has_work() and core.adapters.infos[-1].effect == core.adapters.infos[0].effect


def test_it_waits_until_nobody_waits_for_an_answer(folder: Path) -> None:
    core = core_of(folder, max_loras=1)
    core.load_adapter(folder / "a")
    core.add([5, 6, 7], SamplingParams(temperature=0, max_tokens=5, ignore_eos=True), "a")
    core.load_adapter(folder / "b")
    core.score([5, 6, 7], ["a"])
    effects: list[tuple[float | None, ...]] = []
    while core.scheduler.has_work() or core.scoring.has_work():
        effects.append(tuple(info.effect for info in core.adapters.infos))
        core.step()
    assert set(effects) == {(None, None)}
    finish(core)
    assert all(info.effect for info in core.adapters.infos)


def test_an_adapter_unloaded_before_it_was_measured_is_forgotten(folder: Path) -> None:
    core = core_of(folder)
    core.load_adapter(folder / "a")
    core.unload_adapter("a")
    core.load_adapter(folder / "b")
    finish(core)
    assert [info.name for info in core.adapters.infos] == ["b"] and core.adapters.slots.resident


def test_more_adapters_than_slots_are_measured_one_after_the_other(folder: Path) -> None:
    core = core_of(folder, max_loras=1, max_cpu_loras=1)
    for name in "abc":
        core.load_adapter(folder / name)
    finish(core)
    assert all(info.effect for info in core.adapters.infos)


def test_what_cannot_be_measured_stays_unknown_and_hurts_nobody(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    llm = LLM(folder / "model", **OPTIONS)
    before = llm.generate([[5, 6, 7]], LONG)[0].token_ids
    wild = change(tiny_adapter(tmp_path / "wild", folder / "model", targets=LLAMA_LINEARS), lora_alpha=1e31)
    assert llm.load_adapter(wild).effect is None
    with monkeypatch.context() as patch:

        def fails(batch: Any) -> Any:
            raise RuntimeError("out of memory")

        patch.setattr(llm._core.runner, "logits", fails)
        assert llm.load_adapter(folder / "a").effect is None
    assert caplog.messages == ["the effect of adapter 'a' cannot be measured: out of memory"]
    assert llm.generate([[5, 6, 7]], LONG)[0].token_ids == before
    finish(llm._core)


@pytest.fixture
async def engine(folder: Path) -> AsyncIterator[tuple[AsyncEngine, list[list[AdapterInfo]]]]:
    told: list[list[AdapterInfo]] = []
    engine = AsyncEngine(folder / "model", on_adapters=lambda: told.append(engine.adapters), **OPTIONS)
    yield engine, told
    await engine.close()


async def test_a_load_returns_at_once_and_the_effect_is_told_later(
    engine: tuple[AsyncEngine, list[list[AdapterInfo]]], folder: Path
) -> None:
    running, told = engine
    answer = running.generate([5, 6, 7], LONG)
    await anext(answer)
    assert (await running.load_adapter(folder / "a")).effect is None
    assert [event async for event in answer if isinstance(event, FinishEvent)]
    async with asyncio.timeout(20):
        while not (running.adapters[0].effect and told and told[-1] == running.adapters):
            await asyncio.sleep(0.005)
    assert running.adapters[0].state == "slot"
    count = len(told)
    assert [event async for event in running.generate([5, 6, 7], LONG, "a")]
    assert len(told) == count  # nothing more to tell
