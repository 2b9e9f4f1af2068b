"""Models that run through Transformers' own modules: they compute what eager Transformers computes, or are refused."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from packaging.version import Version
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from mp13.engine.attention.registry import AttentionSpec, choose_attention
from mp13.engine.attention.sdpa import paged_attention
from mp13.engine.config import EngineConfig
from mp13.engine.context import StepContext
from mp13.engine.execution.kv_cache import allocate_kv_cache
from mp13.engine.execution.model_runner import ModelRunner
from mp13.engine.linear.adapted_linear import AdaptedLinear
from mp13.engine.linear.delta import LinearDelta
from mp13.engine.models.interface import CausalModel
from mp13.engine.models.loader import load_model
from mp13.engine.models.support import attention_need
from mp13.engine.models.transformers_bridge import TransformersModel
from mp13.engine.request import SamplingParams
from mp13.engine.scheduling.batch import Batch, ScheduledSequence
from mp13.engine.scheduling.block_pool import BlockPool
from mp13.engine.scheduling.sequence import AdapterWeights, Sequence
from mp13.errors import ModelError
from tests.engine.tiny_models import BRIDGED, LLAMA_LINEARS, reference_logits, reference_model, tiny_adapter, tiny_model

BLOCK_SIZE, NUM_BLOCKS = 16, 32
TARGETS = {
    "phi3": ("qkv_proj", "gate_up_proj", "o_proj"),
    "gpt-neox": ("query_key_value", "dense", "dense_4h_to_h", "embed_out"),
    "gpt2": ("lm_head",),  # all its other layers are no nn.Linear
}
CPU = torch.device("cpu")
A, B = "aa", "bb"  # what stands for two adapters' digests


def load(
    path: Path,
    dtype: torch.dtype = torch.float32,
    attend: Any = None,
    context: StepContext | None = None,
    trust_remote_code: bool = False,
    block_size: int = 16,
) -> TransformersModel:
    config = AutoConfig.from_pretrained(path)
    attend = attend or choose_attention("auto", attention_need(config, CPU, dtype, block_size)).function
    return TransformersModel.load(
        path, config, dtype, CPU, attend, context or StepContext(), block_size, trust_remote_code
    )


def text(length: int, seed: int) -> list[int]:
    return [3 + (7 * i * i + 31 * seed + i) % 300 for i in range(length)]


def put_adapter(model: CausalModel, path: Path, slot: int) -> None:
    """Write a PEFT folder into `slot` of the model's linears."""
    config = json.loads((path / "adapter_config.json").read_text())
    rank, tensors = config["r"], load_file(path / "adapter_model.safetensors")
    scale = config["lora_alpha"] / (math.sqrt(rank) if config["use_rslora"] else rank)
    for key in tensors:
        if key.endswith(".lora_A.weight"):
            target = model.targets[key.removeprefix("base_model.model.").removesuffix(".lora_A.weight")]
            delta = LinearDelta(tensors[key], scale * tensors[key.replace("lora_A", "lora_B")])
            target.linear.write(slot, {target.part: delta})


def packed_logits(
    model: CausalModel, context: StepContext, slots_of: Any, texts: list[list[int]], mixes: list[AdapterWeights]
) -> list[torch.Tensor]:
    """Prefill all but the last 4 tokens of every text in one step, then feed those one by one; the last 5 logits."""
    runner = ModelRunner(model, context, slots_of, block_size=BLOCK_SIZE, dtype=torch.float32, device=CPU)
    runner.use_cache(allocate_kv_cache(model.cache_shape, NUM_BLOCKS, BLOCK_SIZE, torch.float32, CPU))
    pool = BlockPool(NUM_BLOCKS, BLOCK_SIZE)
    seqs = [
        Sequence(str(i), t[:-4], SamplingParams(), mix) for i, (t, mix) in enumerate(zip(texts, mixes, strict=True))
    ]
    steps = []
    for place in (-4, -3, -2, -1, None):
        for seq in seqs:
            pool.allocate(seq, seq.num_tokens)
        batch = Batch(tuple(ScheduledSequence(seq, seq.num_tokens - seq.num_computed_tokens) for seq in seqs))
        with torch.inference_mode():
            steps.append(runner._forward(batch).clone())
        for seq, ids in zip(seqs, texts, strict=True):
            seq.num_computed_tokens = seq.num_tokens
            if place is not None:
                seq.token_ids.append(ids[place])
    return list(torch.stack(steps, 1))  # per text (5, vocab_size)


NEW_ONLY = pytest.mark.skipif(
    transformers.__version__ < "5", reason="calls no attention function before Transformers 5"
)
FAMILIES = [*BRIDGED, "llama-bias", "mistral", "qwen2-window", "opt", pytest.param("qwen2-moe", marks=NEW_ONLY)]


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_of_a_packed_batch_of_mixes_equal_eager_transformers(family: str, tmp_path: Path) -> None:
    path = tiny_model(tmp_path / "model", family)
    context = StepContext()
    model = load(path, context=context)
    texts = [text(n, n) for n in (23, 45, 6, 33)]
    mixes: list[AdapterWeights] = [(), ((A, 1.0),), ((B, 0.5),), ((A, 0.7), (B, -0.4))]
    targets = TARGETS.get(family, ("q_proj", "v_proj", "o_proj", "lm_head"))
    adapters = {
        A: tiny_adapter(tmp_path / "a", path, rank=4, targets=targets, seed=1),
        B: tiny_adapter(tmp_path / "b", path, rank=9, targets=targets[:1], seed=2, rslora=True),
    }
    put_adapter(model, adapters[A], slot=0)
    put_adapter(model, adapters[B], slot=1)

    def slots_of(mix: AdapterWeights) -> list[tuple[int, float]]:
        return [([A, B].index(name), weight) for name, weight in mix]

    ours = packed_logits(model, context, slots_of, texts, mixes)
    for ids, mix, logits in zip(texts, mixes, ours, strict=True):
        reference = reference_model(path, [(adapters[name], weight) for name, weight in mix])
        torch.testing.assert_close(logits, reference_logits(reference, ids)[-5:], atol=5e-4, rtol=1e-4)


@pytest.mark.parametrize("family", ["llama3-rope", "smollm", "mistral", "qwen2-window", "qwen3"])
def test_both_implementations_give_the_same_logits(family: str, tmp_path: Path) -> None:
    path = tiny_model(tmp_path, family)
    texts = [text(n, n) for n in (23, 45, 6)]
    logits = []
    for impl in ("native", "transformers"):
        loaded = load_model(EngineConfig(str(path), dtype="float32", model_impl=impl), lambda stage, fraction: None)
        assert loaded.model_impl == impl
        logits.append(torch.stack(packed_logits(loaded.model, loaded.context, lambda _: [], texts, [()] * 3)))
    torch.testing.assert_close(*logits, atol=5e-4, rtol=1e-4)


@pytest.mark.parametrize("family", BRIDGED)
def test_the_self_check_lets_bfloat16_models_through(family: str, tmp_path: Path) -> None:
    path = tiny_model(tmp_path, family)
    assert load(path, torch.bfloat16).model.dtype == torch.bfloat16


@pytest.mark.parametrize("block_size", [1, 3, 9, 10, 32])
def test_the_self_check_lets_blocks_of_every_size_through(block_size: int, tmp_path: Path) -> None:
    assert load(tiny_model(tmp_path, "phi3"), block_size=block_size).targets


def test_each_layer_tells_its_own_scale_window_and_cap(tmp_path: Path) -> None:
    model = load(tiny_model(tmp_path, "gemma2"))
    layers = [module.mp13_attention.spec for module in model.modules() if hasattr(module, "mp13_attention")]
    assert layers == [AttentionSpec(24**-0.5, 12, 5.0), AttentionSpec(24**-0.5, None, 5.0)]


@NEW_ONLY
def test_a_window_that_only_the_mask_knows_is_found(tmp_path: Path) -> None:
    """Qwen2-MoE never tells its attention function about the window of its masks."""
    model = load(tiny_model(tmp_path, "qwen2-moe"))
    windows = [module.mp13_attention.spec.window for module in model.modules() if hasattr(module, "mp13_attention")]
    assert sorted(windows, key=str) == [12, None]


def test_linears_share_the_weights_of_those_they_replace(tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model(tmp_path, "granite")).eval()
    weight = model.model.layers[1].mlp.down_proj.weight.data_ptr()
    bridged = TransformersModel(model, paged_attention, StepContext())
    linear = bridged.targets["model.layers.1.mlp.down_proj"].linear
    assert isinstance(linear, AdaptedLinear)
    assert linear is model.model.layers[1].mlp.down_proj
    assert linear.base.weight.data_ptr() == weight


def test_adapters_go_on_every_linear_that_sees_all_tokens_and_on_no_expert(tmp_path: Path) -> None:
    names = {name.rpartition(".")[2] for name in load(tiny_model(tmp_path / "dense", "olmo2")).targets}
    assert names == {*LLAMA_LINEARS, "lm_head"}
    targets = load(tiny_model(tmp_path / "moe", "qwen3-moe")).targets
    assert "model.layers.0.self_attn.q_proj" in targets
    assert not any("experts" in name for name in targets)
    assert load(tiny_model(tmp_path / "gpt2", "gpt2")).targets.keys() == {"lm_head"}  # the others are Conv1D


def test_the_self_check_leaves_the_context_as_it_was(tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model(tmp_path, "granite")).eval()
    context = StepContext()
    TransformersModel(model, paged_attention, context)
    assert context == StepContext()


def without_last_key(q: Any, k_cache: Any, v_cache: Any, spec: AttentionSpec, meta: Any) -> torch.Tensor:
    return paged_attention(q, k_cache, v_cache.roll(1, 1), spec, meta)


def without_window(q: Any, k_cache: Any, v_cache: Any, spec: AttentionSpec, meta: Any) -> torch.Tensor:
    return paged_attention(q, k_cache, v_cache, AttentionSpec(spec.scale), meta)


def wrong_scale(q: Any, k_cache: Any, v_cache: Any, spec: AttentionSpec, meta: Any) -> torch.Tensor:
    return paged_attention(q, k_cache, v_cache, AttentionSpec(spec.scale * 1.1, spec.window), meta)


def heads_swapped(q: Any, k_cache: Any, v_cache: Any, spec: AttentionSpec, meta: Any) -> torch.Tensor:
    return paged_attention(q, k_cache, v_cache, spec, meta).roll(1, 1)


def crashing(q: Any, k_cache: Any, v_cache: Any, spec: AttentionSpec, meta: Any) -> torch.Tensor:
    raise ValueError("no kernel for this head size")


@pytest.mark.parametrize("attend", [without_last_key, without_window, wrong_scale, heads_swapped])
def test_the_self_check_refuses_attention_that_goes_wrong(attend: Callable[..., Any], tmp_path: Path) -> None:
    path = tiny_model(tmp_path, "phi3")
    with pytest.raises(ModelError, match=r"'phi3' cannot run here: its logits on our attention are .*% away"):
        load(path, attend=attend)


def test_the_self_check_refuses_a_cache_that_is_written_to_the_wrong_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mp13.engine.attention import paged

    store = paged.store_kvcache
    monkeypatch.setattr(paged, "store_kvcache", lambda k, v, kc, vc, slots: store(k, v, kc, vc, slots.flip(0)))
    with pytest.raises(ModelError, match="away from those on its own"):
        load(tiny_model(tmp_path, "granite"))


def test_an_exception_in_the_self_check_becomes_the_reason(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="'granite' cannot run here: ValueError: no kernel for this head size"):
        load(tiny_model(tmp_path, "granite"), attend=crashing)


def test_logits_that_overflow_are_refused(tmp_path: Path) -> None:
    path = tiny_model(tmp_path, "granite", embedding_multiplier=1e6)
    with pytest.raises(ModelError, match="its logits overflow in float16"):
        load(path, torch.float16)


@NEW_ONLY
def test_attention_with_sinks_is_refused(tmp_path: Path) -> None:
    path = tiny_model(
        tmp_path, "gpt_oss", num_local_experts=4, rope_parameters={"rope_theta": 1e4, "rope_type": "default"}
    )
    with pytest.raises(ModelError, match="'gpt_oss' cannot run here: its attention takes s_aux"):
        load(path)


HOOKED_SINCE_5_24 = pytest.mark.skipif(
    Version(transformers.__version__) >= Version("5.24"), reason="calls the attention function since Transformers 5.24"
)
PARTLY_TURNED = [pytest.param(name, marks=HOOKED_SINCE_5_24) for name in ("gptj", "codegen")]


@pytest.mark.parametrize("model_type", ["bloom", "mpt", *PARTLY_TURNED])
def test_models_that_never_call_the_hook_are_refused_by_name(model_type: str, tmp_path: Path) -> None:
    path = tiny_model(tmp_path, model_type, **({"rotary_dim": 8} if model_type in ("gptj", "codegen") else {}))
    with pytest.raises(ModelError, match=f"'{model_type}' cannot run here: its layers never call the attention"):
        load(path)


def test_a_model_without_a_cached_key_for_each_layer_is_refused(tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model(tmp_path, "granite")).eval()
    model.model.layers[1].self_attn.layer_idx = 0
    with pytest.raises(ModelError, match=r"layers \[0, 0\] call the attention function, where each of 2 should"):
        TransformersModel(model, paged_attention, StepContext())


def test_a_mask_that_is_no_window_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attention in chunks looks like a window to the last token alone, and like none to a short prompt."""
    path = tiny_model(tmp_path, "mistral", sliding_window=64)
    masks = transformers.masking_utils
    monkeypatch.setattr(masks, "sliding_window_overlay", lambda n: lambda b, h, q, kv: kv // n == q // n)
    with pytest.raises(ModelError, match="neither causal nor a sliding window"):
        load(path)


def test_a_checkpoint_that_lacks_weights_is_refused(tmp_path: Path) -> None:
    path = tiny_model(tmp_path, "granite")
    weights = load_file(path / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks 1 weights, 'model.layers.1.mlp.up_proj.weight' among them"):
        load(path)


def test_pickled_weights_are_not_read(tmp_path: Path) -> None:
    path = tiny_model(tmp_path, "granite")
    torch.save(load_file(path / "model.safetensors"), path / "pytorch_model.bin")
    (path / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"holds no \*\.safetensors"):
        load(path)


@pytest.mark.parametrize("consent", [False, True])
def test_a_models_own_code_runs_with_consent_only(
    consent: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    path = tiny_model(tmp_path / "model", "granite")
    (path / "modeling_own.py").write_text(
        "from transformers import GraniteForCausalLM\nclass OwnModel(GraniteForCausalLM):\n    pass\n"
    )
    config = json.loads((path / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "modeling_own.OwnModel"}
    (path / "config.json").write_text(json.dumps(config))
    model = load(path, trust_remote_code=consent).model
    assert type(model).__name__ == ("OwnModel" if consent else "GraniteForCausalLM")
