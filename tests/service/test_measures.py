"""How large a model on the Hub is, told from a Hub on this machine: only headers are asked for, and nothing is kept."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest
from safetensors.numpy import save

from mp13.engine.models.footprint import llama_tensors
from tests.fakes.fake_hub import FakeHub, Repository

ROOT = Path(__file__).parents[2]
RUN = """
import json, sys
from mp13.errors import ModelError
from mp13.library.measures import measure_model
from mp13.library.models import list_models
answers = []
for model in json.loads(sys.argv[1]):
    try:
        found = measure_model(model)
        answers.append([found.shape.num_layers, sorted(found.shape.linears), found.itemsize, found.saved])
    except ModelError as error:
        answers.append(str(error))
print(json.dumps([answers, [model.name for model in list_models()]]))
"""
CONFIG = {
    "model_type": "llama", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "dtype": "bfloat16",
    "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 300,
}  # fmt: skip
SHAPES = llama_tensors(CONFIG)


def weights(names: list[str]) -> bytes:
    return save({name: numpy.zeros(SHAPES[name], numpy.float16) for name in names})


def model(**config: Any) -> dict[str, bytes]:
    return {"config.json": json.dumps({**CONFIG, **config}).encode(), "model.safetensors": weights(list(SHAPES))}


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with FakeHub({}) as running:
        yield running


def measured(hub: FakeHub, tmp_path: Path, *models: str) -> tuple[list[Any], list[str]]:
    ours = {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_OFFLINE": "0",
        "PYTHONPATH": str(ROOT / "src"),
    }
    environment = {name: value for name, value in os.environ.items() if name not in ("HF_TOKEN", "HF_HUB_CACHE")} | ours
    command = [sys.executable, "-c", RUN, json.dumps(models)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    answers, listed = json.loads(done.stdout)
    return answers, listed


def test_a_model_is_measured_by_its_headers_and_is_not_here_afterwards(hub: FakeHub, tmp_path: Path) -> None:
    first, second = list(SHAPES)[:5], list(SHAPES)[5:]
    index = {"weight_map": {**dict.fromkeys(first, "a.safetensors"), **dict.fromkeys(second, "b.safetensors")}}
    shards = {"a.safetensors": weights(first), "b.safetensors": weights(second)}
    config = {"config.json": json.dumps(CONFIG).encode()}
    hub.repositories["org/one"] = Repository({"new": model()})
    hub.repositories["org/shards"] = Repository(
        {"new": config | shards | {"model.safetensors.index.json": json.dumps(index).encode()}}
    )
    (one, shards_found), listed = measured(hub, tmp_path, "org/one", "org/shards")
    linears = [[32, 64], [32, 64], [64, 64], [64, 64], [64, 96], [96, 64], [96, 64]]
    assert one == shards_found == [2, sorted(linears * 2), 2, None]
    assert listed == []


def test_what_cannot_be_had_or_is_no_model_is_a_sentence_with_a_way_out(hub: FakeHub, tmp_path: Path) -> None:
    hub.repositories |= {
        "org/gated": Repository({"new": model()}, gated=True),
        "org/pickle": Repository({"new": {"config.json": b"{}", "pytorch_model.bin": b"x"}}),
        "org/adapter": Repository({"new": {"adapter_config.json": b"{}"}}),
        "org/odd": Repository({"new": model() | {"config.json": b"[1]"}}),
    }
    answers, _ = measured(
        hub, tmp_path, "org/gated", "org/nothing", "org/pickle", "org/adapter", "org/odd", "./nowhere"
    )
    for answer, sentence in zip(
        answers,
        (
            "it is gated; accept its licence on the Hub, then run `hf auth login`",
            "no such repository, or it is private",
            "org/pickle holds no model in safetensors; choose another repository",
            "org/adapter has no config.json, so it is no model that runs here",
            "config.json of org/odd is no configuration",
            "there is no model './nowhere' on this machine",
        ),
        strict=True,
    ):
        assert sentence in answer
