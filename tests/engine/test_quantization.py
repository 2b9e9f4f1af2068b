"""Models in few bits: the float32 rule against their dequantized weights, memory while loading, saving, refusals."""

import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from hqq.core.quantize import Quantizer
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from mp13 import LLM, SamplingParams
from mp13.engine.config import EngineConfig
from mp13.engine.linear import quantized_tensor
from mp13.engine.linear.adapted_linear import AdaptedLinear
from mp13.engine.linear.quantized_weight import QuantizedEmbedding, QuantizedWeight
from mp13.engine.models.loader import load_model
from mp13.engine.quantization import Quantization, parse_quantization
from mp13.engine.quantizing.request import QuantizeRequest
from mp13.engine.quantizing.write import quantize_folder
from mp13.errors import AdapterError, ConfigError, ModelError, UnsupportedError
from mp13.library.quantizing import quantize as quantize_apart
from mp13.service.provenance import compose
from tests.engine.adapter_world import change_tensors
from tests.engine.memory import LiveBytes
from tests.engine.tiny_models import (
    LLAMA_LINEARS,
    assert_greedy_matches,
    randomize,
    reference_model,
    tiny_adapter,
    tiny_model,
)

GREEDY = SamplingParams(temperature=0, max_tokens=10, ignore_eos=True)
MIXES = {"base": (), "a": (("a", 1.0),), "d:0.5": (("d", 0.5),), "a:0.7+d:-0.4": (("a", 0.7), ("d", -0.4))}
PROMPTS = [[3 + (7 * i * i + 31 * seed + i) % 300 for i in range(n)] for seed, n in enumerate((3, 17, 33, 5))]
BOTH = pytest.mark.parametrize("model_impl", ["native", "transformers"])


def engine(path: Path, quantization: Any, **options: Any) -> LLM:
    return LLM(
        path, **{"dtype": "float32", "device": "cpu", "kv_cache_memory": "4MiB", **options}, quantization=quantization
    )


def dequantized(weight: torch.Tensor, bits: int, group_size: int, axis: int) -> torch.Tensor:
    """hqq's own way there and back."""
    packed, meta = Quantizer.quantize(weight, nbits=bits, group_size=group_size, axis=axis, device="cpu")
    return Quantizer.dequantize(packed, meta | {"compute_dtype": torch.float32})


def with_dequantized_weights(path: Path, out: Path, quantization: Quantization) -> Path:
    """The model in full, its weights what `quantization` makes of them: what a quantized model is held against."""
    model = AutoModelForCausalLM.from_pretrained(path, use_safetensors=True)
    head, table = model.get_output_embeddings(), model.get_input_embeddings()
    is_tied, original = head.weight is table.weight, table.weight.data.clone()
    head_bits = quantization.head or (quantization.embeddings if is_tied else None)
    size, axis = quantization.group_size or 32, quantization.axis
    with torch.no_grad():
        for module in model.modules():
            if type(module) is nn.Linear and module is not head:
                module.weight.copy_(dequantized(module.weight, quantization.bits, size, axis))
        if head_bits is not None:
            source = original if is_tied else head.weight.data
            head.weight = nn.Parameter(dequantized(source, head_bits, size, axis))
            model.config.tie_word_embeddings = False
        if quantization.embeddings is not None:
            table.weight = nn.Parameter(dequantized(original, quantization.embeddings, size, 1))
    model.save_pretrained(out)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (out / name).write_bytes((path / name).read_bytes())
    return out


def without_prefix(path: Path) -> None:
    """Name the tensors as a model without a head does, which Transformers knows to rename."""
    tensors = load_file(path / "model.safetensors")
    renamed = {name.removeprefix("model."): tensor for name, tensor in tensors.items() if "lm_head" not in name}
    save_file(renamed, path / "model.safetensors", metadata={"format": "pt"})


def model_with_eyes(folder: Path, intermediate_size: int) -> Path:
    """A random Gemma 3 of text and images, whose vision tower has layers of this width."""
    text = AutoConfig.from_pretrained(tiny_model(folder, "gemma3")).to_dict()
    vision = {"model_type": "siglip_vision_model", "hidden_size": 32, "intermediate_size": intermediate_size,
              "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}  # fmt: skip
    config = AutoConfig.for_model(
        "gemma3", text_config=text, vision_config=vision, mm_tokens_per_image=1, image_token_index=319,
        boi_token_index=317, eoi_token_index=318,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config)
    randomize(model, 0)
    model.save_pretrained(folder)
    return folder


def in_fp8(path: Path) -> None:
    """Store the layers' linears in 8-bit floating point beside scales for them and for their inputs."""
    tensors = load_file(path / "model.safetensors")
    for name in [name for name in tensors if "_proj" in name]:
        scale = tensors[name].abs().max() / 448
        tensors[name] = (tensors[name] / scale).to(torch.float8_e4m3fn)
        tensors[f"{name}_scale_inv"] = scale
        tensors[name.replace("weight", "activation_scale")] = torch.tensor(1.0)
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((path / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "fp8", "activation_scheme": "static"}
    (path / "config.json").write_text(json.dumps(config))


class TestGreedyAnswers:
    @pytest.mark.parametrize(
        ("family", "model_impl", "text"),
        [
            ("llama", "native", "hqq-4bit g32"),
            ("llama", "native", "hqq-4bit g32 kernel int4"),
            ("llama", "native", "hqq-3bit g32 axis0"),
            ("llama", "transformers", "hqq-4bit g32 kernel int4"),
            ("llama-tied", "native", "hqq-4bit g32 head 4bit"),
            ("llama-tied", "native", "hqq-8bit g32 embeddings 4bit"),
            ("llama-tied", "native", "hqq-4bit g32 axis0 head 3bit embeddings 8bit"),
            ("llama-tied", "transformers", "hqq-8bit g32 embeddings 4bit"),
            ("llama-tied", "transformers", "hqq-4bit g32 head 4bit"),
            ("llama-bias", "native", "hqq-2bit g16"),
            ("qwen2", "native", "hqq-4bit g32 head 8bit"),
            ("qwen3", "transformers", "hqq-4bit g32 embeddings 8bit"),
            ("gemma2", "transformers", "hqq-4bit g32 head 4bit"),
            ("granite", "transformers", "hqq-3bit g32"),
            ("olmo2", "transformers", "hqq-8bit g32"),
        ],
    )
    def test_are_those_of_the_dequantized_base_under_every_mix(
        self, family: str, model_impl: str, text: str, tmp_path: Path
    ) -> None:
        path = tiny_model(tmp_path / "model", family)
        quantization = parse_quantization(text)
        assert quantization is not None
        base = with_dequantized_weights(path, tmp_path / "dequantized", quantization)
        adapters = {
            "a": tiny_adapter(tmp_path / "a", base, targets=LLAMA_LINEARS),
            "d": tiny_adapter(tmp_path / "d", base, targets=("q_proj", "down_proj"), use_dora=True, seed=2),
        }
        llm = engine(path, text, model_impl=model_impl)
        assert llm.info.model_impl == model_impl
        for name, folder in adapters.items():
            llm.load_adapter(folder, name)
        outs = llm.generate(PROMPTS, GREEDY, list(MIXES))
        for (mix, members), ids, out in zip(MIXES.items(), PROMPTS, outs, strict=True):
            assert out.adapters == mix
            reference = reference_model(base, [(adapters[name], weight) for name, weight in members])
            assert_greedy_matches(reference, ids, out.token_ids)

    @pytest.mark.parametrize(
        ("family", "text"),
        [
            ("qwen3-moe", "hqq-4bit g32"),
            ("gpt-neox", "hqq-4bit g32"),
            ("llama-tied", "hqq-4bit g32"),
            ("llama-tied", "hqq-4bit g32 head 4bit embeddings 8bit"),
        ],
    )
    def test_of_models_whose_weights_transformers_renames_or_rearranges(
        self, family: str, text: str, tmp_path: Path
    ) -> None:
        """Which of the first two it does depends on its version."""
        path = tiny_model(tmp_path / "model", family)
        quantization = parse_quantization(text)
        assert quantization is not None
        base = with_dequantized_weights(path, tmp_path / "dequantized", quantization)
        if family == "llama-tied":
            without_prefix(path)
        llm = engine(path, text, model_impl="transformers")
        if family == "llama-tied":
            assert llm.info.notes[-1].endswith(
                "while loading, the whole model was in memory, since the checkpoint has no 'model.embed_tokens.weight' "
                "by that name"
            )
        reference = reference_model(base)
        for ids, out in zip(PROMPTS, llm.generate(PROMPTS, GREEDY), strict=True):
            assert_greedy_matches(reference, ids, out.token_ids)

    def test_of_a_text_model_beside_eyes_that_no_group_size_fits(self, tmp_path: Path) -> None:
        path = model_with_eyes(tmp_path, intermediate_size=100)
        llm = engine(path, "hqq-4bit")
        assert llm.info.quantization == "hqq-4bit g32"
        model = llm._core.runner.model
        assert isinstance(model, nn.Module)
        in_full = {name for name, m in model.named_modules() if type(m) is nn.Linear}
        assert in_full and all("vision" in name for name in in_full)
        quantized = [m for m in model.modules() if isinstance(m, AdaptedLinear) and isinstance(m.base, QuantizedWeight)]
        assert len(quantized) == 2 * len(LLAMA_LINEARS)
        reference = reference_model(path).eval()
        with torch.no_grad():
            for name, module in reference.named_modules():
                if type(module) is nn.Linear and name.rpartition(".")[2] in LLAMA_LINEARS and "vision" not in name:
                    module.weight.copy_(dequantized(module.weight, 4, 32, 1))
        for ids, out in zip(PROMPTS, llm.generate(PROMPTS, GREEDY), strict=True):
            assert_greedy_matches(reference, ids, out.token_ids)

    def test_differ_from_those_in_full(self, tmp_path: Path) -> None:
        """Or everything above could pass unquantized."""
        path = tiny_model(tmp_path, "llama")
        answers = [
            [out.token_ids for out in engine(path, q).generate(PROMPTS, GREEDY)] for q in ("none", "hqq-2bit g16")
        ]
        assert answers[0] != answers[1]


class TestMemoryWhileLoading:
    NUMBERS = 6 * (3 * 512 * 128 + 2 * 128 * 128 + 2 * 64 * 128)  # of the layers' linears

    def model(self, folder: Path, **fields: Any) -> Path:
        return tiny_model(folder, "llama", hidden_size=128, intermediate_size=512, num_hidden_layers=6, **fields)

    def loader(self, path: Path, quantization: str, **options: Any) -> Callable[[], object]:
        options = {"dtype": "bfloat16", **options}
        config = EngineConfig(str(path), device="cpu", quantization=quantization, **options)
        return lambda: load_model(config, lambda stage, fraction: None)

    @BOTH
    @pytest.mark.parametrize("tied", [True, False])
    def test_never_exceeds_the_quantized_model_and_its_largest_layer(
        self, model_impl: str, tied: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        chunk = 8192
        monkeypatch.setattr(quantized_tensor, "_CHUNK", chunk)
        monkeypatch.setattr(quantized_tensor, "ThreadPoolExecutor", _OneThread)  # what others allocate is not counted
        monkeypatch.setattr(Quantizer, "optimize_weights", _as_they_are)
        path = self.model(tmp_path, tie_word_embeddings=tied)
        load = self.loader(path, "hqq-4bit head 4bit", model_impl=model_impl)
        with LiveBytes() as memory:
            loaded = load()
        largest = 2 * 512 * 128  # bytes of gate, up or down in bfloat16
        pieces = 12 * 4 * chunk
        assert memory.peak <= memory.now + largest + pieces
        vocabulary = 320 * 128
        assert memory.now <= 1.05 * ((self.NUMBERS + vocabulary) * (0.5 + 4 / 64) + 2 * vocabulary)
        assert memory.peak < 0.6 * 2 * self.NUMBERS  # it was never there in full
        del loaded

    def test_a_model_loaded_whole_would_be_noticed(self, tmp_path: Path) -> None:
        with LiveBytes() as memory:
            loaded = self.loader(self.model(tmp_path), "none", dtype="float32")()
        assert memory.peak > 2 * self.NUMBERS
        del loaded


class _OneThread(nullcontext):
    def __enter__(self) -> "_OneThread":
        return self

    map = staticmethod(map)


def _as_they_are(tensor: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor, min_max: list[int], **_: Any) -> Any:
    """In place of hqq's search, which takes long to be watched and needs no more memory than this."""
    error = [tensor * scale + zero for _ in range(4)]
    return error[0].round().clamp(*min_max), scale, zero


class TestWhatItIsMadeOf:
    @BOTH
    def test_every_linear_in_the_layers_is_quantized_and_head_and_embeddings_as_asked(
        self, model_impl: str, tmp_path: Path
    ) -> None:
        path = tiny_model(tmp_path, "llama")
        for head, embeddings in ((None, None), (8, None), (None, 4), (2, 3)):
            table = {"bits": 4, "head": head or "none", "embeddings": embeddings or "none"}
            model = engine(path, table, model_impl=model_impl)._core.runner.model
            assert isinstance(model, nn.Module)
            found = {name: m for name, m in model.named_modules() if isinstance(m, AdaptedLinear)}
            kinds = {name: isinstance(m.base, QuantizedWeight) for name, m in found.items()}
            heads = [quantized for name, quantized in kinds.items() if "head" in name]
            assert heads == [head is not None]
            assert all(quantized for name, quantized in kinds.items() if "head" not in name)
            tables = [m for m in model.modules() if isinstance(m, QuantizedEmbedding)]
            assert len(tables) == (embeddings is not None)

    def test_both_implementations_have_the_same_weights(self, tmp_path: Path) -> None:
        path = tiny_model(tmp_path, "llama")
        scores = [
            engine(path, "hqq-3bit head 4bit", model_impl=impl).score(PROMPTS) for impl in ("native", "transformers")
        ]
        for native, bridged in zip(*scores, strict=True):
            torch.testing.assert_close(torch.tensor(native[1:]), torch.tensor(bridged[1:]), atol=1e-4, rtol=0)

    def test_the_description_has_the_canonical_text_and_the_notes_the_way_it_takes(self, tmp_path: Path) -> None:
        path = tiny_model(tmp_path, "llama")  # 64 and 96 wide, so that groups of 64 do not fit
        info = engine(path, "hqq-4bit", dtype="bfloat16").info
        assert info.quantization == "hqq-4bit g32"
        assert (
            info.notes[-1]
            == "quantization hqq-4bit g32: int4 product for up to 384 tokens at a time, dequantized for more"
        )
        info = engine(path, {"bits": 3, "head": 8}).info
        assert info.quantization == "hqq-3bit g32 head 8bit"
        assert "dequantized before each product, which saves memory and no time" in info.notes[-1]
        assert "3 bits have no int4 product" in info.notes[-1]
        assert engine(path, "none").info.quantization == "none"


def saved(path: Path, out: Path, quantization: str, **options: Any) -> Path:
    out.mkdir()
    quantize_folder(QuantizeRequest(str(path), quantization, str(out), device="cpu", **options), lambda *_: None)
    return out


def all_scores(llm: LLM) -> list[list[float | None]]:
    return llm.score(PROMPTS)


class TestASavedModel:
    @pytest.mark.parametrize(
        ("family", "quantization"),
        [
            ("llama", "hqq-4bit"), ("llama", "hqq-3bit axis0 head 8bit embeddings 4bit"),
            ("llama-tied", "hqq-4bit head 4bit"), ("llama-tied", "hqq-2bit embeddings 8bit"),
            ("llama-bias", "hqq-8bit"), ("gemma2", "hqq-4bit"), ("phi3", "hqq-2bit head 3bit"),
        ],
    )  # fmt: skip
    @pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
    def test_says_bit_for_bit_what_it_was_made_from_says(
        self, family: str, quantization: str, dtype: str, tmp_path: Path
    ) -> None:
        path = tiny_model(tmp_path / "model", family)
        folder = saved(path, tmp_path / "saved", quantization, dtype=dtype)
        impls = ("native", "transformers") if family.startswith("llama") else ("transformers",)
        for impl in impls:
            made, opened = (engine(p, q, dtype=d, model_impl=impl) for p, q, d in (
                (path, quantization, dtype), (folder, "none", "auto")))  # fmt: skip
            assert opened.info.quantization == made.info.quantization
            assert opened.info.dtype == dtype
            assert all_scores(opened) == all_scores(made)
        assert not [p for p in folder.iterdir() if p.suffix in (".bin", ".pt", ".pkl")]

    def test_of_several_files_opens_likewise(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("mp13.engine.quantizing.write._SHARD_BYTES", 20_000)
        path = tiny_model(tmp_path / "model", "llama")
        folder = saved(path, tmp_path / "saved", "hqq-4bit")
        assert len(list(folder.glob("*.safetensors"))) > 2
        assert all_scores(engine(folder, "none")) == all_scores(engine(path, "hqq-4bit"))

    def test_of_a_model_in_fp8_keeps_none_of_its_scales(self, tmp_path: Path) -> None:
        path = tiny_model(tmp_path / "model", "llama")
        in_fp8(path)
        folder = saved(path, tmp_path / "saved", "hqq-4bit")
        assert all_scores(engine(folder, "none")) == all_scores(engine(path, "hqq-4bit"))
        (file,) = folder.glob("*.safetensors")
        assert not [name for name in load_file(file) if name.endswith(("scale_inv", "activation_scale"))]

    def test_takes_the_same_setting_and_no_other(self, tmp_path: Path) -> None:
        folder = saved(tiny_model(tmp_path / "model", "llama"), tmp_path / "saved", "hqq-4bit head 8bit")
        for same in ("hqq-4bit head 8bit", "hqq-4bit g32 head 8bit", "hqq-4bit head 8bit kernel int4"):
            assert engine(folder, same).info.quantization == "hqq-4bit g32 head 8bit"
        for other in ("hqq-3bit", "hqq-4bit", "hqq-4bit g16 head 8bit"):
            with pytest.raises(ConfigError, match=r"was saved as 'hqq-4bit g32 head 8bit'; give 'none' to use it so"):
                engine(folder, other)
        with pytest.raises(ConfigError, match="is quantized already"):
            saved(folder, tmp_path / "again", "hqq-4bit head 8bit")

    def test_is_refused_by_transformers_own_loaders(self, tmp_path: Path) -> None:
        folder = saved(tiny_model(tmp_path / "model", "llama"), tmp_path / "saved", "hqq-4bit")
        with pytest.raises(OSError, match=r"no file named .*model\.safetensors"):
            AutoModelForCausalLM.from_pretrained(folder)

    @pytest.mark.parametrize("part", ["packed", "scale"])
    def test_whose_tensors_do_not_fit_is_refused(self, part: str, tmp_path: Path) -> None:
        folder = saved(tiny_model(tmp_path / "model", "llama"), tmp_path / "saved", "hqq-4bit")
        (file,) = folder.glob("*.safetensors")
        tensors = load_file(file)
        name = f"model.layers.1.mlp.up_proj.weight_{part}"
        save_file(tensors | {name: tensors[name][:-1].contiguous()}, file)
        with pytest.raises(ModelError, match=r"saved weight of model\.layers\.1\.mlp\.up_proj does not fit"):
            engine(folder, "none")

    def test_appears_when_all_is_done_or_not_at_all(self, tmp_path: Path) -> None:
        path = tiny_model(tmp_path / "model", "llama")
        stages: list[str] = []
        request = QuantizeRequest(str(path), '{"bits": 2}', str(tmp_path / "new" / "two"), device="cpu")
        report = quantize_apart(request, lambda stage, fraction: stages.append(stage))
        assert report.quantization == "hqq-2bit g32" and "quantizing weights" in stages
        assert report.size_bytes < report.base_bytes
        notes = json.loads((tmp_path / "new" / "two" / "mp13.json").read_text())
        assert notes["description"] == "model quantized as hqq-2bit g32"
        with pytest.raises(ConfigError, match="exists; choose another name"):
            quantize_apart(request)
        bad = QuantizeRequest(str(path), "hqq-4bit g1024", str(tmp_path / "new" / "bad"), device="cpu")
        with pytest.raises(ConfigError, match="group_size = 1024"):
            quantize_apart(bad)
        assert [p.name for p in (tmp_path / "new").iterdir()] == ["two"]

    def test_whose_weights_transformers_renames_cannot_be_made(self, tmp_path: Path) -> None:
        path = tiny_model(tmp_path / "model", "granite", tie_word_embeddings=True)
        without_prefix(path)
        with pytest.raises(ModelError, match=r"cannot be saved quantized: the checkpoint has no 'model\.embed_tokens"):
            saved(path, tmp_path / "saved", "hqq-4bit")


def no_weights_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("weights were read")

    monkeypatch.setattr("mp13.engine.models.weights.Checkpoint.read", refuse)
    monkeypatch.setattr("mp13.engine.models.bridged_loading.read_whole", refuse)


class TestRefusals:
    """All before a weight is read."""

    @BOTH
    @pytest.mark.parametrize(
        ("quantization", "options", "sentence"),
        [
            ("hqq-4bit g64", {},
             r"group_size = 64 cannot be used: it does not divide the 96 in_features of model.layers.0.mlp.down_proj;"
             " 8, 16, 32 would fit all layers"),
            ("hqq-3bit kernel int4", {}, "kernel = 'int4' cannot be used for model.layers.0.* 3 bits have no int4"),
            ("hqq-4bit axis0 kernel int4", {}, "kernel = 'int4' .* needs axis = 1"),
            ("hqq-4bit g16 kernel int4", {}, "kernel = 'int4' .* takes groups of 32, 64, 128, 256, not 16"),
        ],
    )  # fmt: skip
    def test_of_the_quantization_itself(
        self, quantization: str, options: dict[str, Any], sentence: str, model_impl: str, tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        path = tiny_model(tmp_path, "llama")
        no_weights_are_read(monkeypatch)
        with pytest.raises(ConfigError, match=sentence):
            engine(path, quantization, model_impl=model_impl, **options)

    @pytest.mark.parametrize(
        ("family", "quantization", "sentence"),
        [
            ("gpt2", "hqq-4bit", "model type 'gpt2' has no linear layers of the usual kind; give 'none'"),
            (
                "gemma3",
                "hqq-4bit embeddings 8bit",
                "embeddings = 8 cannot be used: model type 'gemma3_text' has embeddings of",
            ),
        ],
    )
    def test_of_models_that_have_nothing_of_the_kind(
        self, family: str, quantization: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tiny_model(tmp_path, family)
        no_weights_are_read(monkeypatch)
        with pytest.raises(ConfigError, match=sentence):
            engine(path, quantization)

    def test_of_a_model_that_is_quantized_in_another_way(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = tiny_model(tmp_path, "llama")
        config = json.loads((path / "config.json").read_text())
        config["quantization_config"] = {"quant_method": "gptq", "bits": 4}
        (path / "config.json").write_text(json.dumps(config))
        no_weights_are_read(monkeypatch)
        with pytest.raises(ConfigError, match=r"'hqq-4bit' cannot be used: the model is already quantized by 'gptq'"):
            engine(path, "hqq-4bit")

    def test_without_hqq(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = tiny_model(tmp_path, "llama")
        monkeypatch.setitem(__import__("sys").modules, "hqq.core.quantize", None)
        no_weights_are_read(monkeypatch)
        with pytest.raises(UnsupportedError, match=r"needs the package hqq.*pip install 'mp13\[hqq\]'"):
            engine(path, "hqq-4bit")


def test_an_adapter_trains_through_quantized_weights(tmp_path: Path) -> None:
    """The way back from the logits to a layer's input, over every kind of linear in the model."""
    model = engine(tiny_model(tmp_path, "llama"), "hqq-4bit g32 head 4bit")._core.runner.model
    assert isinstance(model, nn.Module)
    down, head = model.layers[-1].mlp.down, model.head
    x = torch.randn(5, 96, requires_grad=True)
    head(model.norm(down(x))).logsumexp(-1).sum().backward()
    dense = [linear.base.dense(torch.float32) for linear in (down, head)]
    y = x.detach().clone().requires_grad_()
    (model.norm(y @ dense[0].T) @ dense[1].T).logsumexp(-1).sum().backward()
    torch.testing.assert_close(x.grad, y.grad)


@pytest.mark.parametrize("bits", [8, 4, 3, 2])
def test_an_adapter_may_carry_a_copy_of_the_head_that_is_quantized_here(bits: int, tmp_path: Path) -> None:
    path = tiny_model(tmp_path / "model", "llama")
    adapter = tiny_adapter(tmp_path / "a", path, targets=["lm_head"])
    llm = engine(path, f"hqq-4bit head {bits}bit")
    assert llm.load_adapter(adapter, "a").target_modules == ("lm_head",)
    key = "base_model.model.lm_head.base_layer.weight"
    change_tensors(adapter, lambda tensors: tensors.update({key: tensors[key].flip(0)}))
    with pytest.raises(AdapterError, match="lm_head is there as a whole, and differs from this model's"):
        llm.load_adapter(adapter, "other")


def test_it_is_part_of_an_answers_provenance(tmp_path: Path) -> None:
    llm = engine(tiny_model(tmp_path, "llama"), {"bits": 4, "kernel": "int4", "head": 4})
    out = llm.generate([[5, 6, 7]], GREEDY)[0]
    assert compose(llm.info, [], GREEDY, out).quantization == "hqq-4bit g32 head 4bit"
