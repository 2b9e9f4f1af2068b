"""Merging: to a new adapter and to a model folder, held against PEFT, the oracle and the live mix."""

import functools
import json
from collections.abc import Callable
from inspect import signature
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, FineGrainedFP8Config

from mp13 import LLM
from mp13.engine.execution import sizing
from mp13.engine.merging import merge as merging
from mp13.engine.merging.request import MergeReport, MergeRequest
from mp13.engine.quantizing.request import QuantizeRequest
from mp13.engine.quantizing.write import quantize_folder
from mp13.errors import AdapterError, ModelError
from mp13.library.merging import merge as merge_apart
from tests.engine import tiny_models
from tests.engine.tiny_models import LLAMA_LINEARS, reference_logits, reference_model, tiny_adapter, tiny_model

needs_fp8 = pytest.mark.skipif(
    "dequantize" not in signature(FineGrainedFP8Config).parameters, reason="Transformers is too old"
)
PROMPT = [5, 17, 200, 33, 90, 41, 7, 8]
WEIGHTED = ("linear", "ties", "magnitude_prune", "svd", "ties_svd", "magnitude_prune_svd")


def make(target: str, model: Path, mix: str, adapters: dict[str, Path], out: Path, **options: Any) -> MergeReport:
    out.mkdir()
    named = tuple((name, str(folder)) for name, folder in adapters.items())
    request = MergeRequest(str(model), mix, named, str(out), target, **options)
    return merging.merge(request, lambda stage, fraction: None)


def peft_adapter(folder: Path, model: Path, config: peft.PeftConfig, rows: int | None = None) -> Path:
    """A random adapter of any kind, as PEFT saves it; `rows` resizes the vocabulary first."""
    base = AutoModelForCausalLM.from_pretrained(model)
    if rows is not None:
        base.resize_token_embeddings(rows, mean_resizing=False)
    adapted = peft.get_peft_model(base, config)
    generator = torch.Generator().manual_seed(3)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator)
    adapted.save_pretrained(folder)
    return folder


def peft_logits(folder: Path, model: Path) -> torch.Tensor:
    return reference_logits(peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model), folder), PROMPT)


def logits(folder: Path) -> torch.Tensor:
    """Of the model in a folder, by Transformers alone."""
    return reference_logits(AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval(), PROMPT)


def changes(model: Path, adapter: Path) -> dict[str, torch.Tensor]:
    """What PEFT says that a LoRA adds to each weight."""
    adapted = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model), adapter)
    layers = {n: m for n, m in adapted.base_model.model.named_modules() if isinstance(m, peft.tuners.lora.LoraLayer)}
    return {name: layer.get_delta_weight("default") for name, layer in layers.items()}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A tiny model of a family, made once."""
    return functools.cache(lambda family: tiny_model(tmp_path_factory.mktemp(family) / "model", family))


def test_a_merge_needs_little_memory_beside_the_model(
    tiny: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sizing, "room_for", lambda device, share: 1 << 28)
    model = tiny("llama")
    adapters = {"a": tiny_adapter(tmp_path / "a", model), "b": tiny_adapter(tmp_path / "b", model, seed=2)}
    assert make("adapter", model, "a:0.5+b:0.5", adapters, tmp_path / "out").rank == 8


@pytest.fixture(scope="module")
def three(tiny: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two plain adapters of one rank, and one that has everything a plain one lacks."""
    folder, model = tmp_path_factory.mktemp("three"), tiny("llama")
    return {
        "a": tiny_adapter(folder / "a", model, seed=1),
        "b": tiny_adapter(folder / "b", model, seed=2, alpha=12),
        "odd": tiny_adapter(
            folder / "odd", model, rank=3, targets=LLAMA_LINEARS, seed=3, rslora=True, rank_pattern={"v_proj": 5},
            alpha_pattern={"layers.1.self_attn.v_proj": 7}, exclude_modules=["k_proj"],
        ),
    }  # fmt: skip


class TestToAnAdapter:
    def test_cat_is_the_mix_itself_for_every_transformers_user(self, tiny, three, tmp_path: Path) -> None:
        report = make("adapter", tiny("llama"), "a:0.6+b:-0.4+odd:1.5", three, tmp_path / "sum")
        mix = [(three["a"], 0.6), (three["b"], -0.4), (three["odd"], 1.5)]
        live = reference_logits(reference_model(tiny("llama"), mix), PROMPT)
        assert torch.allclose(peft_logits(tmp_path / "sum", tiny("llama")), live, atol=1e-3)
        assert report.max_gap < 1e-2 and report.mean_kl < 1e-6
        assert report.rank == 4 + 4 + 5
        assert [(name, weight) for name, _, weight in report.members] == [("a", 0.6), ("b", -0.4), ("odd", 1.5)]

    def test_the_new_adapter_names_its_modules_shortly_where_that_is_true(self, tiny, three, tmp_path: Path) -> None:
        make("adapter", tiny("llama"), "a", three, tmp_path / "a2")
        make("adapter", tiny("llama"), "a+odd", three, tmp_path / "both")
        partial = tiny_adapter(tmp_path / "partial", tiny("llama"), layers_to_transform=[1])
        make("adapter", tiny("llama"), "p", {"p": partial}, tmp_path / "p2")
        names = {f: json.loads((tmp_path / f / "adapter_config.json").read_text()) for f in ("a2", "both", "p2")}
        assert names["a2"]["target_modules"] == ["q_proj", "v_proj"]
        member = json.loads((three["a"] / "adapter_config.json").read_text())
        assert names["a2"]["base_model_name_or_path"] == member["base_model_name_or_path"]
        assert names["p2"]["target_modules"] == ["model.layers.1.self_attn.q_proj", "model.layers.1.self_attn.v_proj"]
        assert names["both"]["rank_pattern"]["model.layers.0.self_attn.q_proj"] == 4 + 3

    @pytest.mark.parametrize("method", WEIGHTED)
    def test_other_methods_are_pefts(self, tiny, three, tmp_path: Path, method: str) -> None:
        if method.endswith("svd"):  # early versions of PEFT count the scale twice there
            three = {name: tiny_adapter(tmp_path / name, tiny("llama"), seed=ord(name), alpha=4) for name in "ab"}
        density = None if method in ("linear", "svd") else 0.4
        report = make("adapter", tiny("llama"), "a:0.7+b:0.5", three, tmp_path / "m", method=method, density=density)
        model = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny("llama")), three["a"], "a")
        model.load_adapter(three["b"], "b")
        model.add_weighted_adapter(["a", "b"], [0.7, 0.5], "m", combination_type=method, density=density)
        wanted = {
            name: layer.get_delta_weight("m")
            for name, layer in model.base_model.model.named_modules()
            if isinstance(layer, peft.tuners.lora.LoraLayer)
        }
        made = changes(tiny("llama"), tmp_path / "m")
        assert made.keys() == wanted.keys()
        for name in made:
            assert torch.allclose(made[name], wanted[name], atol=1e-4), name
        assert report.rank == 4 and report.mean_kl > 1e-4  # an approximation, and it says how good

    @pytest.mark.parametrize("method", ["dare_linear", "dare_ties"])
    def test_dare_is_random_by_its_seed_alone(self, tiny, three, tmp_path: Path, method: str) -> None:
        made = []
        for i, seed in enumerate((1, 1, 2)):
            out = tmp_path / f"m{i}"
            make("adapter", tiny("llama"), "a+b", three, out, method=method, density=0.5, seed=seed)
            made.append((out / "adapter_model.safetensors").read_bytes())
        assert made[0] == made[1] != made[2]

    def test_svd_takes_adapters_of_all_ranks_and_a_rank_of_its_own(self, tiny, three, tmp_path: Path) -> None:
        whole = make("adapter", tiny("llama"), "a+odd", three, tmp_path / "whole", method="svd", rank=9)
        assert whole.rank == 9 and whole.mean_kl < 1e-5  # as much as the members have together
        part = make("adapter", tiny("llama"), "odd:2", three, tmp_path / "part", method="svd", rank=1)
        assert part.rank == 1 and part.mean_kl > 1e-3

    def test_rslora_members_keep_their_scale_in_every_method(self, tiny, three, tmp_path: Path) -> None:
        """PEFT scales the sum again by alpha / √r if the first member is an rsLoRA."""
        rs = tiny_adapter(tmp_path / "rs", tiny("llama"), rslora=True, seed=4)
        report = make(
            "adapter", tiny("llama"), "rs+z", {"rs": rs, "z": three["a"]}, tmp_path / "m", method="svd", rank=8
        )
        assert report.mean_kl < 1e-5

    @pytest.mark.parametrize(
        ("mix", "method", "says"),
        [("a+odd", "linear", "use svd or cat"), ("a+odd", "ties", "use ties_svd or cat"), ("a", "ties", "two or more")],
    )
    def test_what_a_method_cannot_merge_is_refused_with_one_that_can(
        self, tiny, three, tmp_path: Path, mix: str, method: str, says: str
    ) -> None:
        with pytest.raises(AdapterError, match=says):
            make("adapter", tiny("llama"), mix, three, tmp_path / "m", method=method)

    def test_a_dora_becomes_a_model_not_a_lora(self, tiny, tmp_path: Path) -> None:
        dora = tiny_adapter(tmp_path / "d", tiny("llama"), use_dora=True)
        with pytest.raises(AdapterError, match=r"merge d:0\.5 --model OUT"):
            make("adapter", tiny("llama"), "d:0.5", {"d": dora}, tmp_path / "m")

    def test_template_tokens_and_system_prompt_go_with_it(self, tiny, three, tmp_path: Path) -> None:
        speaking = _speaking_adapter(tmp_path / "s", tiny("llama"))
        make("adapter", tiny("llama"), "s+a", {"s": speaking, "a": three["a"]}, tmp_path / "m")
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / "m")
        assert tokenizer.chat_template == "{{ messages[0]['content'] }}<|over|>"
        assert json.loads((tmp_path / "m" / "mp13.json").read_text())["system_prompt"] == "Speak up."


class TestToAModel:
    @pytest.mark.parametrize("family", ["llama", "qwen2", "gemma2"])
    def test_its_weights_are_base_and_mix(self, tiny, tmp_path: Path, family: str) -> None:
        adapters = {
            "a": tiny_adapter(tmp_path / "a", tiny(family), targets=LLAMA_LINEARS),
            "b": tiny_adapter(tmp_path / "b", tiny(family), seed=2),
        }
        report = make("model", tiny(family), "a:0.5+b:-0.4", adapters, tmp_path / "m")
        oracle = reference_model(tiny(family), [(adapters["a"], 0.5), (adapters["b"], -0.4)])
        assert torch.allclose(logits(tmp_path / "m"), reference_logits(oracle, PROMPT), atol=1e-4)
        assert report.max_gap < 1e-2 and report.rank is None and report.size_bytes > 0
        assert AutoTokenizer.from_pretrained(tmp_path / "m").chat_template

    def test_a_dora_at_half_strength_is_half_its_change(self, tiny, tmp_path: Path) -> None:
        dora = tiny_adapter(tmp_path / "d", tiny("llama"), use_dora=True)
        make("model", tiny("llama"), "d:0.5", {"d": dora}, tmp_path / "half")
        full = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny("llama")), dora)
        full = full.merge_and_unload()
        half, base = (AutoModelForCausalLM.from_pretrained(f) for f in (tmp_path / "half", tiny("llama")))
        for name, weight in half.named_parameters():
            wanted = (full.get_parameter(name) + base.get_parameter(name)) / 2
            assert torch.allclose(weight, wanted, atol=1e-5), name

    def test_a_tied_head_that_is_changed_gets_weights_of_its_own(self, tiny, three, tmp_path: Path) -> None:
        model = tiny("llama-tied")
        head = tiny_adapter(tmp_path / "h", model, targets=["lm_head"])
        make("model", model, "h", {"h": head}, tmp_path / "m")
        merged, base = (AutoModelForCausalLM.from_pretrained(f) for f in (tmp_path / "m", model))
        assert not merged.config.tie_word_embeddings
        assert torch.equal(merged.model.embed_tokens.weight, base.model.embed_tokens.weight)
        assert not torch.equal(merged.lm_head.weight, base.lm_head.weight)

    def test_a_tied_head_that_is_not_stays_tied(self, tiny, tmp_path: Path) -> None:
        adapter = tiny_adapter(tmp_path / "a", tiny("llama-tied"))
        make("model", tiny("llama-tied"), "a", {"a": adapter}, tmp_path / "m")
        assert "lm_head.weight" not in load_file(tmp_path / "m" / "model.safetensors")

    def test_bfloat16_is_rounded_once(self, tiny, three, tmp_path: Path) -> None:
        half = AutoModelForCausalLM.from_pretrained(tiny("llama")).to(torch.bfloat16)
        half.save_pretrained(tmp_path / "half")
        AutoTokenizer.from_pretrained(tiny("llama")).save_pretrained(tmp_path / "half")
        make("model", tmp_path / "half", "a+odd:0.5", three, tmp_path / "m")
        exact = reference_model(tmp_path / "half", [(three["a"], 1.0), (three["odd"], 0.5)])
        merged = load_file(tmp_path / "m" / "model.safetensors")
        for name, weight in exact.named_parameters():
            assert ((merged[name].float() - weight).abs() <= weight.abs() * 2**-8 + 1e-6).all(), name

    def test_lossy_methods_make_models_too(self, tiny, three, tmp_path: Path) -> None:
        report = make("model", tiny("llama"), "a+b", three, tmp_path / "m", method="ties")
        make("adapter", tiny("llama"), "a+b", three, tmp_path / "adapter", method="ties")
        oracle = reference_model(tiny("llama"), [(tmp_path / "adapter", 1.0)])
        assert torch.allclose(logits(tmp_path / "m"), reference_logits(oracle, PROMPT), atol=1e-4)
        assert report.mean_kl > 1e-4

    def test_template_and_tokens_go_with_it_and_a_system_prompt_is_told(self, tiny, tmp_path: Path) -> None:
        speaking = _speaking_adapter(tmp_path / "s", tiny("llama"))
        report = make("model", tiny("llama"), "s", {"s": speaking}, tmp_path / "m")
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / "m")
        assert tokenizer.chat_template == "{{ messages[0]['content'] }}<|over|>"
        assert any("system prompt of 's'" in warning for warning in report.warnings)


def _speaking_adapter(folder: Path, model: Path) -> Path:
    tiny_adapter(folder, model)
    (folder / "chat_template.jinja").write_text("{{ messages[0]['content'] }}<|over|>")
    (folder / "mp13.json").write_text(json.dumps({"system_prompt": "Speak up."}))
    return folder


def _without_a_layer(read_model: Callable[..., Any]) -> Callable[..., Any]:
    """A reader whose models forget their last layer when they are saved."""

    def read(*args: Any, **options: Any) -> Any:
        model = read_model(*args, **options)
        save = model.save_pretrained

        def forgetful(*args: Any, **options: Any) -> None:
            kept = model.model.layers[-1].mlp.down_proj.weight.data
            model.model.layers[-1].mlp.down_proj.weight.data = torch.zeros_like(kept)
            save(*args, **options)
            model.model.layers[-1].mlp.down_proj.weight.data = kept

        model.save_pretrained = forgetful
        return model

    return read


def _in_fp8(model: Path, folder: Path) -> Path:
    """The model as DeepSeek and Qwen publish theirs: blocks of 8-bit numbers, with a scale for each."""
    tensors, block = {}, 32
    for name, weight in load_file(model / "model.safetensors").items():
        if "_proj" not in name or name.endswith("bias"):
            tensors[name] = weight.to(torch.bfloat16)
            continue
        blocks = weight.unflatten(0, (-1, block)).unflatten(2, (-1, block))  # (rows, block, columns, block)
        scale = blocks.abs().amax((1, 3)) / 448  # (rows, columns)
        tensors[name] = (blocks / scale[:, None, :, None]).flatten(2).flatten(0, 1).to(torch.float8_e4m3fn)
        tensors[f"{name}_scale_inv"] = scale
    AutoTokenizer.from_pretrained(model).save_pretrained(folder)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((model / "config.json").read_text())
    quantization = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [block, block]}
    config |= {"quantization_config": quantization, "dtype": "bfloat16"}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


FOREIGN: dict[str, Callable[[], peft.PeftConfig]] = {
    "IA3": lambda: peft.IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]),
    "LOHA": lambda: peft.LoHaConfig(r=4, target_modules=["q_proj", "v_proj"]),
    "LOKR": lambda: peft.LoKrConfig(r=4, target_modules=["q_proj", "v_proj"]),
    "VERA": lambda: peft.VeraConfig(r=4, target_modules=["q_proj", "o_proj"]),
    "OFT": lambda: peft.OFTConfig(r=0, oft_block_size=8, target_modules=["q_proj", "v_proj"]),
    "BOFT": lambda: peft.BOFTConfig(boft_block_size=8, target_modules=["q_proj", "o_proj"]),
    "whole modules": lambda: peft.LoraConfig(target_modules=["q_proj"], modules_to_save=["lm_head", "embed_tokens"]),
    "embeddings": lambda: peft.LoraConfig(target_modules=["q_proj", "embed_tokens"]),
    "tokens": lambda: peft.LoraConfig(target_modules=["q_proj"], trainable_token_indices=[3, 4]),
    "biases": lambda: peft.LoraConfig(target_modules=["q_proj"], lora_bias=True),
}  # fmt: skip


class TestWhatOnlyPeftComputes:
    @pytest.mark.parametrize("kind", FOREIGN)
    @pytest.mark.parametrize("family", ["llama-tied", "llama-bias"])
    def test_becomes_a_model(self, tiny, tmp_path: Path, kind: str, family: str) -> None:
        if kind == "biases" and family != "llama-bias":
            pytest.skip("there are no biases to merge into")
        adapter = peft_adapter(tmp_path / "f", tiny(family), FOREIGN[kind]())
        report = make("model", tiny(family), "f", {"f": adapter}, tmp_path / "m")
        assert torch.allclose(logits(tmp_path / "m"), peft_logits(adapter, tiny(family)), atol=1e-3)
        assert report.mean_kl < 1e-5 and report.members[0][0] == "f"

    def test_a_model_whose_linears_lie_crosswise(self, tiny, tmp_path: Path) -> None:
        config = peft.LoraConfig(target_modules=["c_attn"], fan_in_fan_out=True)
        adapter = peft_adapter(tmp_path / "f", tiny("gpt2"), config)
        make("model", tiny("gpt2"), "f", {"f": adapter}, tmp_path / "m")
        assert torch.allclose(logits(tmp_path / "m"), peft_logits(adapter, tiny("gpt2")), atol=1e-3)

    def test_a_larger_vocabulary_comes_with_its_tokens(self, tiny, tmp_path: Path) -> None:
        """Trainers resize the model for tokens of their own, and save embeddings and head as a whole."""
        rows, new = tiny_models.VOCAB_SIZE + 8, tiny_models.VOCAB_SIZE
        config = peft.LoraConfig(target_modules=["q_proj"], modules_to_save=["lm_head", "embed_tokens"])
        adapter = peft_adapter(tmp_path / "f", tiny("llama"), config, rows)
        tokens = {"added_tokens_decoder": {str(new): {"content": "<|tool|>", "special": True}}}
        (adapter / "tokenizer_config.json").write_text(json.dumps(tokens))
        make("model", tiny("llama"), "f", {"f": adapter}, tmp_path / "m")
        merged = AutoModelForCausalLM.from_pretrained(tmp_path / "m")
        assert merged.config.vocab_size == rows == merged.lm_head.weight.shape[0]
        trained = load_file(adapter / "adapter_model.safetensors")
        assert torch.equal(merged.lm_head.weight, trained["base_model.model.lm_head.weight"])
        assert AutoTokenizer.from_pretrained(tmp_path / "m").convert_tokens_to_ids("<|tool|>") == new

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            (lambda tensors: tensors.popitem(), "missing or surplus"),
            (lambda tensors: tensors.update(extra=torch.zeros(1)), "missing or surplus"),
            (lambda tensors: tensors.update({next(iter(tensors)): torch.zeros(1, 7)}), "does not fit this model"),
        ],
    )
    def test_tensors_that_do_not_fit_are_refused(
        self, tiny, tmp_path: Path, change: Callable[[dict[str, torch.Tensor]], Any], says: str
    ) -> None:
        adapter = peft_adapter(tmp_path / "f", tiny("llama"), FOREIGN["IA3"]())
        tensors = load_file(adapter / "adapter_model.safetensors")
        change(tensors)
        save_file(tensors, adapter / "adapter_model.safetensors")
        with pytest.raises(AdapterError, match=says):
            make("model", tiny("llama"), "f", {"f": adapter}, tmp_path / "m")

    @pytest.mark.parametrize(
        ("fields", "says"),
        [
            ({"a_new_feature": 3}, "a_new_feature = 3 is nothing that PEFT"),
            ({"megatron_config": {"x": 1}, "megatron_core": "tests.never_imported"}, "megatron_config"),
            ({"peft_type": "NEVER"}, "train it again as a LoRA"),
            ({"peft_type": "PROMPT_TUNING"}, "train it again as a LoRA"),
        ],
    )
    def test_configurations_that_mean_something_else_are_refused(
        self, tiny, tmp_path: Path, fields: dict[str, Any], says: str
    ) -> None:
        adapter = tiny_adapter(tmp_path / "f", tiny("llama"))
        config = json.loads((adapter / "adapter_config.json").read_text())
        (adapter / "adapter_config.json").write_text(json.dumps(config | fields))
        with pytest.raises(AdapterError, match=says):
            make("model", tiny("llama"), "f", {"f": adapter}, tmp_path / "m")

    def test_a_pickle_is_not_loaded(self, tiny, tmp_path: Path) -> None:
        adapter = peft_adapter(tmp_path / "f", tiny("llama"), FOREIGN["IA3"]())
        weights = load_file(adapter / "adapter_model.safetensors")
        (adapter / "adapter_model.safetensors").unlink()
        torch.save(weights, adapter / "adapter_model.bin")
        with pytest.raises(AdapterError, match="cannot read"):
            make("model", tiny("llama"), "f", {"f": adapter}, tmp_path / "m")

    def test_only_alone_and_whole(self, tiny, three, tmp_path: Path) -> None:
        adapter = peft_adapter(tmp_path / "f", tiny("llama"), FOREIGN["IA3"]())
        for i, mix in enumerate(("f+a", "f:0.5")):
            with pytest.raises(AdapterError, match="only alone, with weight 1"):
                make("model", tiny("llama"), mix, {"f": adapter, "a": three["a"]}, tmp_path / f"m{i}")
        with pytest.raises(AdapterError, match="merge f --model OUT"):
            make("adapter", tiny("llama"), "f", {"f": adapter}, tmp_path / "m")


class TestTheCheck:
    @pytest.mark.parametrize("target", ["adapter", "model"])
    def test_a_merge_that_went_wrong_is_refused(
        self, tiny, three, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str
    ) -> None:
        combine = merging.combine
        without_b = lambda members, *args, **options: combine(members[:1], *args, **options)  # noqa: E731
        monkeypatch.setattr(merging, "combine", without_b)
        with pytest.raises(AdapterError, match="does not say what it should"):
            make(target, tiny("llama"), "a+b", three, tmp_path / "m")

    @pytest.mark.skipif(
        "dequantize" not in signature(FineGrainedFP8Config).parameters, reason="Transformers is too old"
    )
    def test_a_quantized_base_is_dequantized_first(self, tiny, three, tmp_path: Path) -> None:
        base = _in_fp8(tiny("llama"), tmp_path / "fp8")
        adapters = {"b": three["b"]}
        report = make("model", base, "b", adapters, tmp_path / "m")
        make("adapter", base, "b", adapters, tmp_path / "adapter")
        config = json.loads((tmp_path / "m" / "config.json").read_text())
        assert "quantization_config" not in config
        plain = AutoModelForCausalLM.from_pretrained(base, quantization_config=FineGrainedFP8Config(dequantize=True))
        name = "model.layers.0.self_attn.q_proj"
        change = changes(tiny("llama"), three["b"])[name]
        wanted = plain.get_submodule(name).weight.float() + change
        merged = AutoModelForCausalLM.from_pretrained(tmp_path / "m").get_submodule(name).weight
        assert torch.allclose(merged.float(), wanted, atol=2**-8)
        assert report.mean_kl < 1e-2

    @pytest.mark.parametrize("quantization", ["hqq-4bit head 4bit", "hqq-3bit axis0 embeddings 8bit"])
    @pytest.mark.parametrize("family", ["llama", "llama-tied"])
    def test_a_base_in_few_bits_is_dequantized_first(
        self, tiny, three, family: str, quantization: str, tmp_path: Path
    ) -> None:
        base = tmp_path / "few bits"
        base.mkdir()
        request = QuantizeRequest(str(tiny(family)), quantization, str(base), dtype="float32", device="cpu")
        quantize_folder(request, lambda stage, fraction: None)
        report = make("model", base, "b", {"b": three["b"]}, tmp_path / "m")
        assert report.mean_kl < 1e-5
        assert "quantization_config" not in json.loads((tmp_path / "m" / "config.json").read_text())
        merged = AutoModelForCausalLM.from_pretrained(tmp_path / "m")
        live = LLM(base, dtype="float32", device="cpu", kv_cache_memory="4MiB")
        live.load_adapter(three["b"], "b")
        wanted = torch.tensor(live.score([PROMPT], "b")[0][1:])
        found = reference_logits(merged, PROMPT).log_softmax(-1)[range(len(PROMPT) - 1), PROMPT[1:]]
        torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)

    @needs_fp8
    def test_a_base_that_dequantizes_to_something_else_is_refused(
        self, tiny, three, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        base = _in_fp8(tiny("llama"), tmp_path / "fp8")
        monkeypatch.setattr(merging, "read_model", _without_a_layer(merging.read_model))
        with pytest.raises(AdapterError, match="the dequantized base"):
            make("model", base, "b", three, tmp_path / "m")

    def test_without_room_on_the_disk_nothing_begins(
        self, tiny, three, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
        with pytest.raises(ModelError, match="make room"):
            make("model", tiny("llama"), "a", three, tmp_path / "m")
        assert not any((tmp_path / "m").iterdir())


class TestInAProcessOfItsOwn:
    def test_the_folder_appears_when_all_is_done(self, tiny, three, tmp_path: Path) -> None:
        stages: list[str] = []
        named = tuple((name, str(folder)) for name, folder in three.items())
        request = MergeRequest(str(tiny("llama")), "b:2+a", named, str(tmp_path / "new" / "sum"), "adapter")
        report = merge_apart(request, lambda stage, fraction: stages.append(stage))
        assert report.path == str(tmp_path / "new" / "sum") and report.mix == "a+b:2"
        assert list(dict.fromkeys(stages))[-4:] == ["combine", "live", "write", "check"]
        assert [path.name for path in (tmp_path / "new").iterdir()] == ["sum"]
        notes = json.loads((tmp_path / "new" / "sum" / "mp13.json").read_text())
        assert (notes["merge"]["mix"], notes["merge"]["model"]) == ("a+b:2", tiny("llama").name)  # no path
        assert [member["digest"] for member in notes["merge"]["members"]] == [digest for _, digest, _ in report.members]

    def test_a_refusal_is_told_and_leaves_nothing(self, tiny, three, tmp_path: Path) -> None:
        named = tuple((name, str(folder)) for name, folder in three.items())
        request = MergeRequest(str(tiny("llama")), "a+odd", named, str(tmp_path / "new" / "sum"), "adapter", "ties")
        with pytest.raises(AdapterError, match="use ties_svd or cat"):
            merge_apart(request)
        assert not any((tmp_path / "new").iterdir())
