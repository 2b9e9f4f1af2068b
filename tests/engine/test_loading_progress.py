"""What is told while a model loads: in words that anybody understands, and never going back."""

import os
import subprocess
import sys
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
import transformers

from mp13.engine.config import EngineConfig
from mp13.engine.core import EngineCore
from tests.engine.gguf_files import write_gguf
from tests.engine.test_quantization import without_prefix
from tests.engine.tiny_models import tiny_model
from tests.fakes.fake_hub import FakeHub, Repository

Told = list[tuple[str, float | None]]
HAS_HOOK = hasattr(transformers.utils.logging, "set_tqdm_hook")


def load(model: Path, **options: Any) -> Told:
    told: Told = []
    config = EngineConfig(str(model), dtype="float32", kv_cache_memory="64KiB", **options)
    EngineCore(config, lambda stage, fraction: told.append((stage, fraction)))
    return told


def stages(told: Told) -> list[str]:
    """Each once, in order; what is counted must rise from one to the next, up to the whole."""
    for _, events in groupby(told, lambda event: event[0]):
        fractions = [fraction for _, fraction in events if fraction is not None]
        assert fractions == sorted(fractions)
        assert not fractions or (fractions[0] < 0.5 and fractions[-1] == 1.0)
    return [stage for stage, _ in groupby(stage for stage, _ in told)]


def is_counted(told: Told, stage: str) -> bool:
    return len({fraction for name, fraction in told if name == stage and fraction is not None}) > 5


@pytest.mark.parametrize("as_gguf", [False, True])
def test_a_native_model_is_read(tmp_path: Path, as_gguf: bool) -> None:
    model = tiny_model(tmp_path / "model")
    told = load(write_gguf(tmp_path / "model.gguf", model) if as_gguf else model)
    assert stages(told) == ["reading the tokenizer", "reading weights", "sizing the cache"]
    assert is_counted(told, "reading weights")


def test_a_native_model_in_few_bits_is_quantized(tmp_path: Path) -> None:
    told = load(tiny_model(tmp_path / "model"), quantization="hqq-4bit")
    assert stages(told) == ["reading the tokenizer", "quantizing weights", "sizing the cache"]
    assert is_counted(told, "quantizing weights")


def test_a_bridged_model_is_read_and_checked(tmp_path: Path) -> None:
    told = load(tiny_model(tmp_path / "model", "gemma2"))
    assert stages(told) == ["reading the tokenizer", "reading weights", "checking the model", "sizing the cache"]
    assert is_counted(told, "reading weights") == HAS_HOOK


def test_a_bridged_model_in_few_bits_is_quantized_and_checked(tmp_path: Path) -> None:
    told = load(tiny_model(tmp_path / "model", "gemma2"), quantization="hqq-4bit")
    told = [event for event in told if event != ("reading weights", None)]
    assert stages(told) == ["reading the tokenizer", "quantizing weights", "checking the model", "sizing the cache"]
    assert is_counted(told, "quantizing weights")


def test_one_that_has_to_be_read_whole_first_is_read_and_then_quantized(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "model", "llama-tied")
    without_prefix(model)
    told = load(model, quantization="hqq-8bit", model_impl="transformers")
    assert is_counted(told, "quantizing weights")
    names = [stage for stage, _ in groupby(stage for stage, _ in told)]
    assert names[1:] == ["reading weights", "quantizing weights", "checking the model", "sizing the cache"]


def test_a_download_tells_how_much_has_come_of_all_files(tmp_path: Path) -> None:
    large = os.urandom(25_000_000)  # huggingface_hub tells of every 10 MB
    files = {
        "config.json": b"{}",
        "a.safetensors": large,
        "b.safetensors": large[:12_000_000],
        "consolidated.safetensors": large,
    }
    script = (
        "from mp13.engine.models.weights import model_path\n"
        "model_path('org/model', lambda stage, fraction: print(stage, fraction, sep='|'))"
    )
    with FakeHub({"org/model": Repository({"main": files})}) as hub:
        environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0"}
        lines = []
        for _ in range(2):  # the second time all is there
            done = subprocess.run(
                [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=60
            )
            assert (done.returncode, done.stderr) == (0, "")
            lines.append([line.split("|") for line in done.stdout.splitlines()])
    assert lines[1] == [["asking the Hub for org/model", "None"]]
    first, *downloading = lines[0]
    assert first == lines[1][0]
    assert {stage for stage, _ in downloading} == {"downloading org/model"}
    fractions = [float(fraction) for _, fraction in downloading]
    assert fractions == sorted(fractions)
    assert fractions[0] < 0.5
    assert fractions[-1] == 1.0
    assert len(set(fractions)) >= 4
