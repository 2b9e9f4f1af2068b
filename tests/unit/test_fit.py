"""What a model takes and what fits, told from its configuration and the headers of its files, without torch."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy
import pytest
from safetensors.numpy import save_file

from mp13.chat.cli import models_cli, mp13
from mp13.engine.config import EngineConfig
from mp13.engine.models.footprint import model_shape, weight_format
from mp13.errors import ConfigError, ModelError
from mp13.library import fit
from mp13.library.fit import estimate_fit, fits_by_quantization, read_model
from mp13.library.machine import Computer, Gpu, Survey
from mp13.library.measures import measure_model
from mp13.library.paths import models_dir
from mp13.library.starter import FILES, STARTER_SHAPE, starter_dir
from tests.fakes.command import Command

GIB = 2**30
LLAMA_8B: dict[str, Any] = {
    "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256, "max_position_embeddings": 131072,
    "tie_word_embeddings": False, "torch_dtype": "bfloat16",
}  # fmt: skip
CARD = EngineConfig("any", max_model_len=8192, max_num_seqs=4)


def test_a_llama_of_8b_weighs_what_is_known_of_it() -> None:
    assert model_shape(LLAMA_8B).weight_bytes(weight_format("none", 2)) == 2 * 8_030_261_248  # parameters
    assert model_shape(LLAMA_8B).token_bytes(2) == 128 * 1024


def test_weights_of_4_bits_keep_a_scale_and_a_zero_for_each_group() -> None:
    shape = model_shape(LLAMA_8B)
    linears = 8_030_261_248 - 2 * 128256 * 4096 - 65 * 4096
    rest = 2 * (2 * 128256 * 4096 + 65 * 4096)
    assert shape.weight_bytes(weight_format("hqq-4bit", 2)) == linears * (0.5 + 4 / 64) + rest
    assert shape.weight_bytes(weight_format("hqq-4bit g128", 2)) == linears * (0.5 + 4 / 128) + rest
    ends = weight_format("hqq-4bit head 8bit embeddings 4bit", 2)
    assert shape.weight_bytes(ends) == shape.weight_bytes(weight_format("hqq-4bit", 2)) - 128256 * 4096 * (
        4 - (1 + 4 / 64) - (0.5 + 4 / 64)
    )


def test_a_step_counts_the_most_that_is_dequantized_at_one_time() -> None:
    shape, tokens = model_shape(LLAMA_8B), 8192  # so many that their MLP takes more than a judged text

    def unpacked(name: str) -> float:
        full, form = (shape.activation_bytes(tokens, 2, weight_format(of, 2)) for of in ("none", name))
        return (form - full) / 2

    assert unpacked("hqq-4bit") == unpacked("hqq-8bit head 8bit") == 2**25
    assert unpacked("hqq-4bit axis0") == 2 * 14336 * 4096  # gate and up, which cannot be cut
    assert unpacked("hqq-4bit axis0 head 4bit") == 128256 * 4096


def test_a_shared_embedding_counts_once_unless_the_head_has_bits_of_its_own() -> None:
    shape = model_shape({**LLAMA_8B, "tie_word_embeddings": True})
    own, table = weight_format("hqq-4bit head 8bit", 2), 128256 * 4096
    assert model_shape(LLAMA_8B).weight_bytes(weight_format("none", 2)) - shape.weight_bytes(
        weight_format("none", 2)
    ) == (2 * table)
    assert shape.weight_bytes(own) - shape.weight_bytes(weight_format("hqq-4bit", 2)) == table * (1 + 4 / 64)


def test_the_cards_that_people_own() -> None:
    shape = model_shape(LLAMA_8B)
    bf16 = estimate_fit(shape, CARD, weight_format("none", 2), 24 * GIB, on_gpu=True)
    assert bf16.longest == 8192 and bf16.total <= 24 * GIB
    small = estimate_fit(shape, CARD, weight_format("hqq-4bit head 4bit embeddings 4bit", 2), 8 * GIB, on_gpu=True)
    assert small.longest == 8192 and small.total <= 0.9 * 8 * GIB
    assert not estimate_fit(shape, CARD, weight_format("none", 2), 8 * GIB, on_gpu=True).holds(8192)


@pytest.mark.parametrize("gibs", [2, 5, 7, 8, 12, 17, 24, 80])
@pytest.mark.parametrize("name", ["none", "hqq-8bit", "hqq-4bit"])
def test_what_fits_never_takes_more_than_there_is(gibs: int, name: str) -> None:
    shape, config = model_shape(LLAMA_8B), EngineConfig("any", max_num_seqs=4)
    for on_gpu in (True, False):
        fit = estimate_fit(shape, config, weight_format(name, 2), gibs * GIB, on_gpu=on_gpu)
        assert fit.longest <= fit.cache_tokens
        if fit.longest:
            assert fit.total <= gibs * GIB * (0.9 if on_gpu else 1)
            assert on_gpu or fit.cache <= min(2 * GIB, gibs * GIB // 4)


def test_on_a_cpu_numbers_are_as_wide_as_it_computes_and_adapters_lie_there_thrice() -> None:
    """Held against the peak of an engine on a CPU with bfloat16 instructions, eight adapters loaded, cache full."""
    shape, form = model_shape(STARTER_SHAPE), weight_format("none", 2)
    config = EngineConfig("any", max_model_len=2048, max_num_seqs=4)
    wide = estimate_fit(shape, config, form, 8 * GIB, on_gpu=False)
    fast = estimate_fit(shape, config, form, 8 * GIB, on_gpu=False, cpu_itemsize=2)
    card = estimate_fit(shape, config, form, 8 * GIB, on_gpu=True)
    assert (fast.cache, fast.activations) == (card.cache, card.activations)
    assert wide.cache == 2 * fast.cache and wide.adapters == 2 * fast.adapters == 6 * card.adapters
    assert fast.weights - card.weights == 2 * 49152 * 576  # the head, packed beside the embedding
    assert 0.95 < fast.total / 1_186_000_000 < 1.05


def test_a_context_that_does_not_fit_says_what_it_needs_and_what_there_is() -> None:
    config = EngineConfig("any", max_model_len=8192, max_num_seqs=4)
    fit = estimate_fit(model_shape(LLAMA_8B), config, weight_format("hqq-4bit", 2), 8 * GIB, on_gpu=True)
    assert fit.wanted_cache == 8192 * 128 * 1024
    assert fit.cache <= fit.most_cache < fit.wanted_cache
    assert fit.beside_cache + fit.most_cache <= 0.9 * 8 * GIB


def test_the_starter_is_known_before_it_is_there() -> None:
    weights = FILES["model.safetensors"][0]
    found = measure_model(str(starter_dir()))
    assert 0 < weights - found.shape.weight_bytes(weight_format("none", 2)) < 50_000  # the file's header


def test_more_bits_adapters_and_tokens_take_more() -> None:
    shape = model_shape(LLAMA_8B)

    def taken(name: str = "hqq-4bit", **settings: Any) -> int:
        config = EngineConfig("any", max_model_len=4096, max_num_seqs=1, **settings)
        return estimate_fit(shape, config, weight_format(name, 2), 80 * GIB, on_gpu=True).total

    assert taken("hqq-2bit") < taken("hqq-3bit") < taken() < taken("hqq-8bit") < taken("none")
    assert taken(max_loras=0) < taken(max_loras=4) < taken(max_loras=8)
    assert taken(max_lora_rank=4) < taken(max_lora_rank=16) == taken(max_lora_rank=64)
    assert taken(max_num_batched_tokens=2048) < taken(max_num_batched_tokens=4096)


@pytest.mark.parametrize("name", ["hqq-5bit", "gptq", "hqq-4bit g", "hqq-4bit head", ""])
def test_an_unknown_quantization_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="cannot be used"):
        weight_format(name, 2)


@pytest.mark.parametrize("missing", ["hidden_size", "num_hidden_layers", "vocab_size", "num_attention_heads"])
def test_a_configuration_that_does_not_say_how_large_the_model_is(missing: str) -> None:
    with pytest.raises(ModelError, match=f"does not say its {missing}"):
        model_shape({key: value for key, value in LLAMA_8B.items() if key != missing})


def test_experts_cannot_be_told_from_a_configuration_alone() -> None:
    with pytest.raises(ModelError, match="experts"):
        model_shape({**LLAMA_8B, "num_experts": 8})


def write_model(folder: Path, **config: Any) -> Path:
    """A model of one layer with experts, an older family's names, and a text part of its own."""
    folder.mkdir(parents=True)
    shapes = {
        "model.embed_tokens.weight": (320, 64), "model.layers.0.self_attn.q_proj.weight": (64, 64),
        "model.layers.0.mlp.experts.0.up_proj.weight": (32, 64), "model.layers.0.input_layernorm.weight": (64,),
        "model.layers.0.self_attn.q_proj.bias": (64,), "vision_tower.layers.0.mlp.weight": (500, 500),
    }  # fmt: skip
    save_file(
        {name: numpy.zeros(shape, dtype=numpy.float16) for name, shape in shapes.items()}, folder / "model.safetensors"
    )
    (folder / "config.json").write_text(json.dumps({
        "text_config": {"n_embd": 64, "n_layer": 1, "n_head": 4, "vocab_size": 320, "n_positions": 128, **config},
        "torch_dtype": "float16",
    }))  # fmt: skip
    return folder


def test_what_is_in_the_files_counts_whatever_the_family(tmp_path: Path) -> None:
    found = read_model(write_model(tmp_path / "model"))
    shape, itemsize = found.shape, found.itemsize
    assert (shape.embedding, shape.head, shape.linears, itemsize) == (320 * 64, 0, ((64, 64),), 2)
    assert shape.other == 32 * 64 + 64 + 64  # experts are never quantized, and what only sees is not read
    assert (shape.num_layers, shape.head_dim, shape.max_position) == (1, 16, 128)


def test_a_configuration_without_weights_is_enough(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_8B))
    assert read_model(tmp_path).shape == model_shape(LLAMA_8B)
    assert fits_by_quantization(tmp_path, CARD, 24 * GIB, on_gpu=True)["none"].longest == 8192


def test_a_model_saved_quantized_is_what_it_was_saved_as(tmp_path: Path) -> None:
    stored = {"quant_method": "mp13-hqq", "weights": {"bits": 4, "group_size": 64, "axis": 1, "head": 8}}
    (tmp_path / "config.json").write_text(json.dumps({**LLAMA_8B, "quantization_config": stored}))
    ((name, fit),) = fits_by_quantization(tmp_path, CARD, 24 * GIB, on_gpu=True).items()
    assert name == "hqq-4bit g64 head 8bit"
    assert fit.weights == model_shape(LLAMA_8B).weight_bytes(weight_format(name, 2))


@pytest.mark.parametrize("asked", ["hqq-4bit head 8bit", "hqq-4bit g64 head 8bit kernel int4", "none"])
def test_a_saved_model_may_be_asked_for_as_what_it_is(tmp_path: Path, asked: str) -> None:
    stored = {"quant_method": "mp13-hqq", "weights": {"bits": 4, "group_size": 64, "axis": 1, "head": 8}}
    (tmp_path / "config.json").write_text(json.dumps({**LLAMA_8B, "quantization_config": stored}))
    assert list(fits_by_quantization(tmp_path, CARD, 24 * GIB, on_gpu=True, quantization=asked)) == [
        "hqq-4bit g64 head 8bit"
    ]


@pytest.mark.parametrize("asked", ["hqq-4bit", "hqq-8bit head 8bit", "hqq-4bit g32 head 8bit"])
def test_a_saved_model_is_nothing_else(tmp_path: Path, asked: str) -> None:
    stored = {"quant_method": "mp13-hqq", "weights": {"bits": 4, "group_size": 64, "axis": 1, "head": 8}}
    (tmp_path / "config.json").write_text(json.dumps({**LLAMA_8B, "quantization_config": stored}))
    with pytest.raises(ConfigError, match=f"{asked} cannot be used: .* already quantized, as 'hqq-4bit g64 head 8bit'"):
        fits_by_quantization(tmp_path, CARD, 24 * GIB, on_gpu=True, quantization=asked)


def write_quantized(folder: Path, stored: dict[str, Any], tensors: dict[str, tuple[int, ...]], **config: Any) -> Path:
    """A model of one layer whose config.json says that it is quantized."""
    folder.mkdir(parents=True)
    content = {**LLAMA_8B, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1, "vocab_size": 320,
               "num_attention_heads": 4, "num_key_value_heads": 2, "quantization_config": stored, **config}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(content))
    arrays = {name: numpy.zeros(shape, dtype=numpy.int8) for name, shape in tensors.items()}
    save_file(arrays, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("config", [{}, {"num_experts": 8}, {"num_local_experts": 8}], ids=str)
@pytest.mark.parametrize("method", ["gptq", "awq", "bitsandbytes"])
def test_what_another_method_packed_is_as_large_as_its_files(tmp_path: Path, method: str, config: Any) -> None:
    tensors = {"model.layers.0.self_attn.q_proj.qweight": (8, 64), "model.embed_tokens.weight": (320, 64)}
    path = write_quantized(tmp_path / "model", {"quant_method": method, "bits": 4}, tensors, **config)
    ((name, fit),) = fits_by_quantization(path, CARD, 8 * GIB, on_gpu=True).items()
    assert name == method and fit.weights == (path / "model.safetensors").stat().st_size
    assert (64, 64) in read_model(path).shape.linears and fit.adapters > 0
    with pytest.raises(
        ConfigError, match=f"--quantization hqq-4bit cannot be used: .* already quantized, as '{method}'"
    ):
        fits_by_quantization(path, CARD, 8 * GIB, on_gpu=True, quantization="hqq-4bit")
    (path / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=f"how large weights packed by {method} are"):
        read_model(path)


def test_experts_in_8_bit_floating_point_are_as_large_as_their_tensors(tmp_path: Path) -> None:
    experts = {f"model.layers.0.mlp.experts.{i}.up_proj": (32, 64) for i in range(4)}
    tensors = {f"{name}.weight": shape for name, shape in experts.items()}
    scales = {f"{name}.weight_scale_inv": (1, 1) for name in experts}
    linear = {"model.layers.0.self_attn.q_proj.weight": (64, 64)}
    path = write_quantized(tmp_path / "model", {"quant_method": "fp8"}, tensors | scales | linear, num_experts=4)
    found = read_model(path)
    assert found.saved is None and found.shape.packed_bytes is None
    assert (found.shape.linears, found.shape.other) == (((64, 64),), 4 * 32 * 64 + 4)


def test_experts_beside_what_we_saved_quantized_count_as_they_are(tmp_path: Path) -> None:
    linear = "model.layers.0.self_attn.q_proj.weight"
    tensors = {f"{linear}_packed": (64, 32), f"{linear}_scale": (48, 2), f"{linear}_zero": (48, 2),
               "model.layers.0.mlp.experts.0.up_proj.weight": (32, 64)}  # fmt: skip
    stored = {"quant_method": "mp13-hqq", "weights": {"bits": 4, "group_size": 32, "axis": 1}}
    shape = read_model(write_quantized(tmp_path / "model", stored, tensors, num_experts=4)).shape
    assert (shape.linears, shape.other) == (((48, 64),), 32 * 64)


@pytest.mark.parametrize("content", ["", "[1]", "{", "[" * 100_000])
def test_a_damaged_configuration_is_a_sentence(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ModelError, match="fetch the model again"):
        read_model(tmp_path)


def test_a_damaged_weight_file_is_a_sentence(tmp_path: Path) -> None:
    write_model(tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").write_bytes(b"no header")
    with pytest.raises(ModelError, match="damaged or incomplete"):
        read_model(tmp_path / "model")


def test_estimating_needs_no_torch() -> None:
    code = "import sys, mp13.library.fit; sys.exit('torch' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(Path(fit.__file__).parents[2])}
    assert subprocess.run([sys.executable, "-c", code], check=False, env=environment).returncode == 0


class TestCommand:
    @pytest.fixture(autouse=True)
    def setup(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.command = Command(monkeypatch, capsys)
        (models_dir() / "org" / "llama").mkdir(parents=True)
        (models_dir() / "org" / "llama" / "config.json").write_text(json.dumps(LLAMA_8B))

    def run(self, *arguments: str) -> tuple[int, str, str]:
        return tuple(self.command.run(mp13.main, "models", "fit", *arguments, stdin=io.StringIO()))

    def test_a_line_for_each_quantization(self) -> None:
        code, out, _ = self.run("org/llama", "--memory", "24GiB", "--max-model-len", "8192", "--max-num-seqs", "4")
        lines = [line.split() for line in out.splitlines()]
        assert code == 0 and [line[0] for line in lines[1:-1]] == [
            "none",
            "hqq-8bit",
            "hqq-4bit",
            "hqq-3bit",
            "hqq-2bit",
        ]
        assert lines[1][1:3] == ["16.1", "GB"] and lines[1][-1] == "8,192"
        assert out.splitlines()[-1] == "in 90% of 25.8 GB of a GPU, with room for 8 adapters and 4 answers"

    def test_what_is_too_short_says_so(self) -> None:
        _, out, _ = self.run("org/llama", "--memory", "18GiB", "--max-model-len", "100000", "--quantization", "none")
        assert "does not fit" in out
        _, out, _ = self.run("org/llama", "--memory", "24GiB", "--max-model-len", "100000", "--quantization", "none")
        assert out.splitlines()[1].endswith("not 100,000")

    def test_json(self) -> None:
        found = json.loads(self.run("org/llama", "--memory", "8GiB", "--json", "--max-model-len", "8192")[1])
        assert (found["memory"], found["on_gpu"]) == (8 * GIB, True)
        assert found["fits"]["none"]["fits"] is False
        assert found["fits"]["none"]["total"] == sum(
            found["fits"]["none"][part] for part in ("weights", "adapters", "activations", "cache")
        )

    def test_without_a_size_it_is_this_machines(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(models_cli, "computer", lambda: Computer("cpu", 2, 2, (), 16 * GIB, 12 * GIB))
        monkeypatch.setattr(models_cli, "surveyed", lambda: Survey(program_bytes=GIB))
        assert json.loads(self.run("org/llama", "--json")[1])["memory"] == 11 * GIB
        card = Gpu("card", 8 * GIB, free=8 * GIB, capability="9.0")
        monkeypatch.setattr(models_cli, "surveyed", lambda: Survey(gpus=(card,)))
        found = json.loads(self.run("org/llama", "--json")[1])
        assert (found["memory"], found["on_gpu"]) == (8 * GIB, True)
        assert json.loads(self.run("org/llama", "--json", "--cpu")[1])["on_gpu"] is False

    @pytest.mark.parametrize(
        ("arguments", "code", "words"),
        [
            (("nowhere",), 1, "there is no model 'nowhere'"),
            (("org/nowhere",), 1, "there is no model 'org/nowhere' on this machine"),
            (("org/llama", "--memory", "much"), 2, "--memory much cannot be used"),
            (("org/llama", "--memory", "8GiB", "--quantization", "gptq"), 2, "'gptq' cannot be used"),
            (("org/llama", "--memory", "8GiB", "--max-model-len", "1"), 2, "max_model_len = 1 cannot be used"),
        ],
    )
    def test_what_cannot_be_used_is_a_sentence(self, arguments: tuple[str, ...], code: int, words: str) -> None:
        outcome = self.run(*arguments)
        assert outcome[0] == code and words in outcome[2]
