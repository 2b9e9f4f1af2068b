"""Answers given while an adapter trains are those of an engine that does not train, upon every form of the base."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from mp13 import LLM, AsyncEngine
from mp13.engine.linear import base_weight as base_weight_module
from mp13.engine.linear.base_weight import PackedHalfWeight
from mp13.engine.linear.quantized_weight import QuantizedWeight
from mp13.engine.models.decoder import Decoder
from mp13.engine.training.events import Failed, Finished, StepDone
from mp13.engine.training.passes import Passes
from tests.engine.test_training_beside import GREEDY, MIXES, OPTIONS, answer, folder, started

__all__ = ["folder"]  # a fixture

FORMS: dict[str, dict[str, Any]] = {
    "full": {},
    "hqq": {"quantization": "hqq-4bit g32"},
    "packed": {"dtype": "bfloat16"},
    "bridged": {"model_impl": "transformers"},
    "bridged hqq": {"model_impl": "transformers", "quantization": "hqq-4bit g32"},
}
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "dora": {"kind": "dora"},
    "checkpointing": {"gradient_checkpointing": True},
    "dropout": {"dropout": 0.2, "gradient_checkpointing": True},
    "pissa": {"init": "pissa"},
}
CASES = [(form, "plain") for form in FORMS] + [("full", name) for name in SETTINGS if name != "plain"]
CASES += [("hqq", "dora"), ("packed", "dora"), ("bridged", "checkpointing"), ("packed", "checkpointing")]


def is_of_form(engine: AsyncEngine, form: str) -> bool:
    """What the case is about is what runs."""
    model = engine._core.base.model
    weights = {target.linear.base for target in model.targets.values()}
    return {
        "full": isinstance(model, Decoder),
        "packed": isinstance(model, Decoder) and any(isinstance(weight, PackedHalfWeight) for weight in weights),
        "hqq": isinstance(model, Decoder) and any(isinstance(weight, QuantizedWeight) for weight in weights),
        "bridged": not isinstance(model, Decoder),
        "bridged hqq": not isinstance(model, Decoder) and any(isinstance(w, QuantizedWeight) for w in weights),
    }[form]


@pytest.mark.parametrize(("form", "settings"), CASES)
async def test_answers_are_the_same(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, settings: str
) -> None:
    if form == "packed":
        monkeypatch.setattr(base_weight_module, "has_fast_bfloat16", lambda: False)
    options = OPTIONS | FORMS[form]
    prompts = [[5 + i, 6, 7, 8] for i in range(6)]
    llm = LLM(folder / "model", **options)
    llm.load_adapter(folder / "a")
    expected = {mix: [out.token_ids for out in llm.generate(prompts, GREEDY, mix)] for mix in MIXES}
    within = [0]  # answers that began while a row was between two of its layers
    yields = Passes._yield

    def counted(passes: Passes) -> None:
        within[0] += engine._core.has_work()
        yields(passes)

    monkeypatch.setattr(Passes, "_yield", counted)
    engine = AsyncEngine(folder / "model", **options)
    try:
        assert is_of_form(engine, form)
        await engine.load_adapter(folder / "a")
        run, told = await started(engine, tmp_path / "out", settings={"steps": 2000, **SETTINGS[settings]})
        async with asyncio.timeout(60):
            for i in range(12):
                assert not run.is_over
                mixes = MIXES if i % 2 else MIXES[:1]
                answers = await asyncio.gather(*(answer(engine, mix, prompts[i % 6]) for mix in mixes))
                assert answers == [expected[mix][i % 6] for mix in mixes]
            while not told.of(StepDone):
                await asyncio.sleep(0.005)
            await engine.steer_training("stop")
            while not run.is_over:
                await asyncio.sleep(0.005)
        assert within[0] > 0 and not told.of(Failed)
        assert told.of(Finished)[0].reason == "stopped"
        for mix in MIXES:
            assert await answer(engine, mix, prompts[0]) == expected[mix][0]
    finally:
        await engine.close()
