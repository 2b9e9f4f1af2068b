"""Adapters as people publish them: the shapes of adapter_config.json that every common trainer leaves, from PEFT's
first releases on, rebuilt with random weights on tiny models. Each loads and does what PEFT would, or is refused with
the step that helps."""

import functools
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from mp13 import LLM
from mp13.engine.adapters.adapter_file import LoadedAdapter, load_adapter_file
from mp13.errors import AdapterError
from tests.engine.tiny_models import LLAMA_LINEARS, tiny_model

Fields = dict[str, Any]
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MERGE = "mp13 adapters merge it --model OUT"
CONVERT = "path_initial_model_for_weight_conversion"

# What PEFT's own dataclass wrote at the time; a later release adds to the one before.
PEFT_0_2: Fields = {
    "base_model_name_or_path": "decapoda-research/llama-7b-hf", "bias": "none", "enable_lora": None,
    "fan_in_fan_out": False, "inference_mode": True, "lora_alpha": 16, "lora_dropout": 0.05, "merge_weights": False,
    "modules_to_save": None, "peft_type": "LORA", "r": 8, "target_modules": ["q_proj", "v_proj"],
    "task_type": "CAUSAL_LM",
}  # fmt: skip
PEFT_0_4: Fields = {
    **{key: value for key, value in PEFT_0_2.items() if key not in ("enable_lora", "merge_weights")},
    "auto_mapping": None, "init_lora_weights": True, "layers_pattern": None, "layers_to_transform": None,
    "revision": None,
}  # fmt: skip
PEFT_0_7: Fields = {
    **PEFT_0_4, "alpha_pattern": {}, "rank_pattern": {}, "loftq_config": {}, "megatron_config": None,
    "megatron_core": "megatron.core",
}  # fmt: skip
PEFT_0_10: Fields = {**PEFT_0_7, "layer_replication": None, "use_dora": False, "use_rslora": False}
PEFT_0_14: Fields = {**PEFT_0_10, "eva_config": None, "exclude_modules": None, "lora_bias": False}
PEFT_0_17: Fields = {
    **PEFT_0_14, "corda_config": None, "qalora_group_size": 16, "target_parameters": None,
    "trainable_token_indices": None, "use_qalora": False,
}  # fmt: skip
PEFT_0_18: Fields = {
    **PEFT_0_17, "alora_invocation_tokens": None, "arrow_config": None, "ensure_weight_tying": False,
    "peft_version": "0.18.1",
}  # fmt: skip
PEFT_0_21: Fields = {
    **PEFT_0_18, "kasa_config": None, "lora_ga_config": None, "monteclora_config": None, "use_bdlora": None,
    "velora_config": None, "peft_version": "0.21.2",
}  # fmt: skip
MLX: Fields = {
    "adapter_path": "adapters", "batch_size": 4, "config": "lora_config.yaml", "data": "data", "fine_tune_type": "lora",
    "iters": 600, "learning_rate": 1e-05, "lora_parameters": {"rank": 8, "scale": 10.0, "dropout": 0.0},
    "model": "mlx-community/Llama-3.2-1B-Instruct-4bit", "num_layers": 16, "seed": 0, "train": True,
}  # fmt: skip
UNSLOTH_REGEX = (
    r"(?:.*?(?:language|text).*?(?:self_attn|attention|attn|mlp|feed_forward|ffn|dense).*?(?:q_proj|k_proj|v_proj|"
    r"o_proj|gate_proj|up_proj|down_proj).*?)|(?:\bmodel\.layers\.[\d]{1,}\.(?:self_attn|attention|attn|mlp|"
    r"feed_forward|ffn|dense)\.(?:(?:q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)))"
)
UNSLOTH_LATE_REGEX = (
    r"(?:.*?(?:language|text).*?(?:self_attn|attention|attn|mixer|mlp|feed_forward|ffn|dense|mixer).*?\."
    r"(?:q_proj|v_proj|o_proj))|(?:\bmodel\.layers\.[\d]{1,}(?!.*\.experts\.\d)\..*?(?:self_attn|attention|attn|mixer|"
    r"mlp|feed_forward|ffn|dense|mixer).*?\.(?:(?:q_proj|v_proj|o_proj)))"
)
UNSLOTH_MAPPING = {
    "base_model_class": "LlamaForCausalLM", "parent_library": "transformers.models.llama.modeling_llama",
    "unsloth_fixed": True,
}  # fmt: skip


@dataclass(frozen=True)
class Specimen:
    """The file has tensors for `linears` (of `layers`). `says` is what its refusal must say, None if it runs."""

    name: str
    config: Fields
    linears: tuple[str, ...] = ("q_proj", "v_proj")
    says: str | None = None
    family: str = "llama"
    kind: str = "lora"
    layers: tuple[int, ...] | None = None
    ranks: dict[str, int] = field(default_factory=dict)  # by name, where it is not r
    rename: Callable[[str], str] = lambda key: key  # of a key as PEFT writes it
    extra: tuple[str, ...] = ()  # further keys in the file
    weights: str = "adapter_model.safetensors"
    dtype: torch.dtype = torch.float32


def runs(name: str, era: Fields, linears: tuple[str, ...] = ("q_proj", "v_proj"), **options: Any) -> Specimen:
    """One whose configuration differs from the era's in `fields`."""
    fields = {"target_modules": list(linears), **options.pop("fields", {})}
    return Specimen(name, {**era, **fields}, linears, **options)


def refused(name: str, era: Fields, says: str, **options: Any) -> Specimen:
    return runs(name, era, options.pop("linears", ("q_proj", "v_proj")), says=says, **options)


ZOO = [
    # PEFT and the scripts around it
    runs("alpaca-lora, PEFT 0.2", PEFT_0_2),
    runs("LLaMA-E, PEFT 0.3", PEFT_0_2, ATTENTION, fields={"init_lora_weights": True}),
    runs("qlora's guanaco, PEFT 0.4", PEFT_0_4, LLAMA_LINEARS, fields={"r": 64, "lora_alpha": 16}),
    runs("PointLLM, PEFT 0.4", PEFT_0_4, ATTENTION, fields={"base_model_name_or_path": "RunsenXu/PointLLM_7B_v1.2"}),
    runs("a fractional alpha", PEFT_0_4, fields={"lora_alpha": 12.5}),
    runs("XTuner's InternLM, PEFT 0.8", PEFT_0_10, LLAMA_LINEARS, fields={"r": 64, "lora_dropout": 0.1}),
    runs("PEFT 0.7", PEFT_0_7), runs("PEFT 0.10", PEFT_0_10), runs("PEFT 0.14", PEFT_0_14),
    runs("PEFT 0.17", PEFT_0_17), runs("PEFT 0.18", PEFT_0_18, ATTENTION), runs("PEFT 0.21", PEFT_0_21),
    runs("no task and a mapping", PEFT_0_18, fields={"task_type": None, "auto_mapping": UNSLOTH_MAPPING}),
    runs("gaussian start", PEFT_0_14, fields={"init_lora_weights": "gaussian"}),
    runs("orthogonal start", PEFT_0_18, fields={"init_lora_weights": "orthogonal"}),
    runs("EVA", PEFT_0_14, ranks={"q_proj": 3, "v_proj": 13}, fields={
        "init_lora_weights": "eva", "eva_config": {"rho": 2.0, "tau": 0.99, "use_label_mask": True},
        "rank_pattern": {f"model.layers.{i}.self_attn.{name}": rank
                         for i in (0, 1) for name, rank in (("q_proj", 3), ("v_proj", 13))},
    }),
    runs("exclude_modules", PEFT_0_14, ("q_proj",), fields={
        "target_modules": ["q_proj", "v_proj"], "exclude_modules": ["v_proj"]}),
    runs("full paths as targets", PEFT_0_10, layers=(1,), fields={
        "target_modules": [f"model.layers.1.self_attn.{n}" for n in ("q_proj", "v_proj")]}),
    runs("targets that this model lacks, too", PEFT_0_18, fields={
        "target_modules": ["q_proj", "in_proj_qkv", "v_proj", "attn.proj", "linear_fc1"]}),
    runs("layers_to_transform, a number", PEFT_0_10, layers=(1,), fields={"layers_to_transform": 1}),
    runs("layers_to_transform and layers_pattern", PEFT_0_10, layers=(0,), fields={
        "layers_to_transform": [0], "layers_pattern": "layers"}),
    runs("a head beside the rest", PEFT_0_14, ("q_proj", "lm_head")),
    runs("DoRA", PEFT_0_10, fields={"use_dora": True}, kind="dora"),
    runs("PiSSA as it is saved", PEFT_0_14, fields={"init_lora_weights": "pissa"}),
    runs("OLoRA as it is saved", PEFT_0_14, fields={"init_lora_weights": "olora"}),
    runs("PiSSA, converted", PEFT_0_14, fields={"init_lora_weights": True, "r": 16, "lora_alpha": 32}),
    runs("activated LoRA", PEFT_0_18, ATTENTION, fields={"alora_invocation_tokens": [5, 6, 7]}, kind="alora"),
    # TRL
    runs("TRL SFT, all-linear", PEFT_0_14, LLAMA_LINEARS, fields={"target_modules": "all-linear"}),
    runs("TRL DPO", PEFT_0_14, fields={"r": 16, "lora_alpha": 16, "lora_dropout": 0.0}),
    runs("TRL GRPO of Qwen", PEFT_0_18, ATTENTION, family="qwen2", fields={"r": 16, "lora_alpha": 32}),
    runs("TRL, upper layers of Gemma 2", PEFT_0_18, LLAMA_LINEARS, family="gemma2", layers=(1,), fields={
        "layers_to_transform": [1]}),
    refused("TRL with a trained head", PEFT_0_14, MERGE, fields={"modules_to_save": ["lm_head"]},
            extra=("base_model.model.lm_head.weight",)),
    refused("TRL after setup_chat_format", PEFT_0_14, MERGE, fields={"modules_to_save": ["lm_head", "embed_tokens"]},
            extra=("base_model.model.lm_head.weight", "base_model.model.model.embed_tokens.weight")),
    refused("TRL, a reward model", PEFT_0_14, "modules_to_save", fields={
        "task_type": "SEQ_CLS", "modules_to_save": ["classifier", "score"]}, extra=("base_model.model.score.weight",)),
    # Unsloth
    runs("Unsloth, PEFT 0.14", PEFT_0_14, LLAMA_LINEARS, fields={"lora_dropout": 0, "r": 32, "lora_alpha": 32}),
    runs("Unsloth's Qwen 3", PEFT_0_17, LLAMA_LINEARS, family="qwen3", fields={"lora_dropout": 0}),
    runs("Unsloth's rsLoRA", PEFT_0_14, LLAMA_LINEARS, fields={"use_rslora": True}, kind="rslora"),
    runs("Unsloth FastModel", PEFT_0_18, LLAMA_LINEARS, fields={
        "target_modules": UNSLOTH_REGEX, "auto_mapping": UNSLOTH_MAPPING}),
    runs("Unsloth FastModel, late", PEFT_0_21, ("q_proj", "v_proj", "o_proj"), fields={
        "target_modules": UNSLOTH_LATE_REGEX, "auto_mapping": UNSLOTH_MAPPING}),
    runs("Unsloth FastModel on a vision model", PEFT_0_18, LLAMA_LINEARS, fields={"target_modules": UNSLOTH_REGEX},
         rename=lambda key: key.replace("model.layers", "model.language_model.layers")),
    refused("Unsloth, continued pretraining", PEFT_0_14, MERGE, linears=LLAMA_LINEARS, fields={
        "modules_to_save": ["lm_head", "embed_tokens"], "use_rslora": True},
        extra=("base_model.model.lm_head.weight", "base_model.model.model.embed_tokens.weight")),
    # Axolotl, LLaMA-Factory, ms-swift, XTuner, NeMo
    runs("Axolotl", PEFT_0_10, LLAMA_LINEARS, fields={"fan_in_fan_out": None, "r": 32}),
    runs("Axolotl, bfloat16", PEFT_0_17, LLAMA_LINEARS, fields={"fan_in_fan_out": None}, dtype=torch.bfloat16),
    runs("Axolotl, an empty modules_to_save", PEFT_0_14, fields={"modules_to_save": []}),
    refused("Axolotl with new tokens", PEFT_0_14, MERGE, fields={"modules_to_save": ["embed_tokens", "lm_head"]}),
    runs("LLaMA-Factory", PEFT_0_10, LLAMA_LINEARS),
    runs("LLaMA-Factory's rsLoRA", PEFT_0_14, fields={"use_rslora": True, "r": 16}, kind="rslora"),
    runs("LLaMA-Factory's DoRA of rsLoRA", PEFT_0_14, fields={"use_dora": True, "use_rslora": True}, kind="dora"),
    runs("LLaMA-Factory, the language part", PEFT_0_14, LLAMA_LINEARS, fields={"target_modules":
         "^(?!.*visual).*(?:o_proj|up_proj|v_proj|down_proj|k_proj|q_proj|gate_proj).*"}),
    refused("LLaMA-Factory's PiSSA, not converted", PEFT_0_14, CONVERT, fields={"init_lora_weights": "pissa_niter_16"}),
    runs("LLaMA-Factory's Phi 3", PEFT_0_14, ("qkv_proj", "o_proj", "gate_up_proj", "down_proj"), family="phi3"),
    runs("ms-swift", PEFT_0_14, LLAMA_LINEARS, fields={"target_modules":
         r"^(model)(?!.*(lm_head|output|emb|wte|shared)).*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)$"}),
    runs("Megatron Bridge", {}, ATTENTION, fields={
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 8, "lora_alpha": 16, "lora_dropout": 0.0, "bias": "none",
        "use_dora": False, "base_model_name_or_path": "meta-llama/Llama-3.2-1B", "inference_mode": True}),
    runs("GPT-NeoX as GLM names it", PEFT_0_10, ("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"),
         family="gpt-neox"),
    # torchtune and MLX
    runs("torchtune", {}, ("q_proj", "v_proj", "o_proj"), fields={
        "r": 8, "lora_alpha": 16, "peft_type": "LORA", "base_model_name_or_path": "meta-llama/Llama-3.2-1B"}),
    runs("torchtune with output and MLP", {}, (*LLAMA_LINEARS, "lm_head"), fields={
        "r": 8, "lora_alpha": 16, "peft_type": "LORA", "base_model_name_or_path": None}),
    runs("torchtune's DoRA", {}, fields={"r": 8, "lora_alpha": 16, "peft_type": "LORA", "use_dora": True}, kind="dora"),
    refused("MLX", MLX, "MLX's own format; convert", weights="adapters.safetensors"),
    refused("MLX, early", {"num_layers": 8, "lora_parameters": {"rank": 8, "scale": 10.0, "dropout": 0.0}},
            "MLX's own format; convert", weights="adapters.safetensors"),
    runs("MLX, converted", {}, ATTENTION, fields={
        **{key: MLX[key] for key in ("fine_tune_type", "lora_parameters", "num_layers")}, "peft_type": "LORA", "r": 8,
        "lora_alpha": 80.0, "target_modules": [f"self_attn.{name}" for name in ATTENTION]}),
    runs("MLX, converted, its last layers", {}, ATTENTION, layers=(1,), fields={
        "peft_type": "LORA", "r": 8, "lora_alpha": 160, "layers_to_transform": [1]}),
    refused("MLX, converted, its last layers, and not a word of it", {}, "layers_to_transform", layers=(1,), fields={
        "peft_type": "LORA", "r": 8, "lora_alpha": 160}),
    # how the tensors are named
    runs("saved by a trainer", PEFT_0_10, rename=lambda key: key.replace(".weight", ".default.weight")),
    runs("compiled", PEFT_0_14, rename=lambda key: key.replace("base_model.model.", "base_model.model._orig_mod.")),
    runs("under FSDP", PEFT_0_14, rename=lambda key: key.replace(".self_attn.", "._fsdp_wrapped_module.self_attn.")),
    runs("without PEFT's prefix", PEFT_0_14, rename=lambda key: key.removeprefix("base_model.model.")),
    runs("Gemma 3 inside its vision model", PEFT_0_17, family="gemma3",
         rename=lambda key: key.replace("model.layers", "language_model.model.layers")),
    # what an adapter of linears cannot do
    refused("biases", PEFT_0_14, MERGE, fields={"bias": "all"}),
    refused("biases of its own", PEFT_0_14, MERGE, fields={"lora_bias": True}),
    refused("trainable tokens", PEFT_0_17, MERGE, fields={"trainable_token_indices": [3, 4]}),
    refused("experts", PEFT_0_17, MERGE, fields={"target_parameters": ["mlp.experts.gate_up_proj"]}),
    refused("embeddings", PEFT_0_14, MERGE, fields={"target_modules": ["q_proj", "v_proj", "embed_tokens"]},
            extra=("base_model.model.model.embed_tokens.lora_embedding_A",)),
    refused("GPT-2, whose linears lie crosswise", PEFT_0_10, MERGE, linears=("c_attn",), family="gpt2", fields={
        "fan_in_fan_out": True}, extra=("base_model.model.transformer.h.0.attn.c_attn.lora_A.weight",)),
    refused("another model", PEFT_0_10, "the model it was made for", linears=("query_key_value",),
            extra=("base_model.model.transformer.encoder.layers.0.self_attention.query_key_value.lora_A.weight",)),
    refused("LoftQ", PEFT_0_10, CONVERT, fields={"init_lora_weights": "loftq", "loftq_config": {"loftq_bits": 4}}),
    refused("CorDA", PEFT_0_17, CONVERT, fields={
        "init_lora_weights": "corda", "corda_config": {"corda_method": "kpm"}}),
    refused("IA3", {"peft_type": "IA3", "feedforward_modules": ["down_proj"]}, MERGE),
    refused("AdaLoRA", {**PEFT_0_14, "peft_type": "ADALORA", "init_r": 12, "target_r": 8}, MERGE),
    refused("LoHa", {"peft_type": "LOHA", "r": 8, "alpha": 8, "use_effective_conv2d": False}, MERGE),
    refused("LoKr", {"peft_type": "LOKR", "r": 8, "alpha": 8, "decompose_factor": -1}, MERGE),
    refused("VeRA", {"peft_type": "VERA", "r": 256, "projection_prng_key": 0, "save_projection": True}, MERGE),
    refused("OFT", {"peft_type": "OFT", "r": 8, "coft": False}, MERGE),
    refused("prompt tuning", {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 8}, "train it again as a LoRA"),
    refused("prefix tuning", {"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 30}, "train it again as a LoRA"),
    refused("a pickle, as PEFT saved until 0.7", PEFT_0_4, "never loaded; save the adapter as safetensors",
            weights="adapter_model.bin"),
    refused("a home-made configuration", {"rank": 16, "alpha": 32.0, "dropout": 0.05}, "a folder that PEFT saved"),
    refused("a field that nobody knows", PEFT_0_14, "remove it from the file", fields={"adaptrix_metadata": {"a": 1}}),
]  # fmt: skip


@pytest.fixture(scope="module")
def llm_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], LLM]:
    def make(family: str) -> LLM:
        path = tiny_model(tmp_path_factory.mktemp(family) / "model", family)
        return LLM(path, dtype="float32", kv_cache_memory="4MiB")

    return functools.cache(make)


def test_there_are_enough_of_them() -> None:
    assert len({specimen.name for specimen in ZOO}) == len(ZOO) >= 60


@pytest.mark.parametrize("specimen", ZOO, ids=lambda specimen: specimen.name)
def test_loads_or_is_refused_with_what_helps(specimen: Specimen, llm_of: Callable[[str], LLM], tmp_path: Path) -> None:
    llm = llm_of(specimen.family)
    written = _write(specimen, tmp_path / "it", llm)
    if specimen.says is not None:
        with pytest.raises(AdapterError) as refusal:
            llm.load_adapter(tmp_path / "it")
        assert specimen.says in str(refusal.value)
        return
    info = llm.load_adapter(tmp_path / "it")
    assert info.kind == specimen.kind and info.rank == max([specimen.config["r"], *specimen.ranks.values()])
    llm.unload_adapter("it")
    if specimen.kind != "dora" and specimen.config.get("init_lora_weights") not in ("pissa", "olora"):
        _assert_same_change(_read(tmp_path / "it", llm), written, specimen)


def _write(specimen: Specimen, folder: Path, llm: LLM) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """The folder as published; returns A and B of each linear."""
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps(specimen.config))
    pairs, tensors = {}, {}
    generator = torch.Generator().manual_seed(1)
    for path, target in llm._core.runner.model.targets.items():
        name = path.rpartition(".")[2]
        in_layers = specimen.layers is None or any(f".{layer}." in path for layer in specimen.layers)
        if name not in specimen.linears or not in_layers:
            continue
        rows, columns = target.linear.part_weight(target.part).shape
        rank = specimen.ranks.get(name, specimen.config.get("r", 8))
        a, b = (torch.randn(shape, generator=generator).to(specimen.dtype) for shape in ((rank, columns), (rows, rank)))
        pairs[path] = (a, b)
        parts = {"lora_A.weight": a, "lora_B.weight": b}
        if specimen.config.get("use_dora"):
            parts["lora_magnitude_vector"] = torch.rand(rows, generator=generator)
        tensors |= {specimen.rename(f"base_model.model.{path}.{part}"): tensor for part, tensor in parts.items()}
    tensors |= {key: torch.zeros(4, 4) for key in specimen.extra}
    (torch.save if specimen.weights.endswith(".bin") else save_file)(tensors, folder / specimen.weights)
    return pairs


def _read(folder: Path, llm: LLM) -> LoadedAdapter:
    core = llm._core
    return load_adapter_file(
        folder, "it", core.runner.model.targets, max_rank=64, dtype=torch.float32, model="m", tokenizer=core.tokenizer,
        vocab_size=core.vocab_size,
    )  # fmt: skip


def _assert_same_change(
    adapter: LoadedAdapter, written: dict[str, tuple[torch.Tensor, torch.Tensor]], specimen: Specimen
) -> None:
    assert adapter.deltas.keys() == written.keys()
    for path, (a, b) in written.items():
        rank = a.shape[0]
        scale = specimen.config["lora_alpha"] / (math.sqrt(rank) if specimen.config.get("use_rslora") else rank)
        delta = adapter.deltas[path]
        assert torch.allclose(delta.b @ delta.a, scale * b.float() @ a.float(), rtol=1e-4, atol=1e-4), path
