"""Every kind of adapter computes what PEFT computes, alone and in sums with others, in native and bridged models."""

from collections.abc import Sequence as Ids
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peft.tuners.lora import LoraLayer
from transformers import AutoModelForCausalLM, PreTrainedModel

from mp13 import LLM, SamplingParams
from mp13.engine.adapters.manager import merge_members
from mp13.engine.scheduling.batch import Batch, ScheduledSequence
from mp13.engine.scheduling.sequence import Sequence
from tests.engine.tiny_models import (
    LLAMA_LINEARS,
    assert_greedy_matches,
    peft_deltas,
    pretend_to_train,
    reference_logits,
    reference_model,
    tiny_adapter,
    tiny_model,
    tiny_tokenizer,
    with_deltas,
)

FAMILIES = ("llama-tied", "llama-bias", "mistral", "qwen3", "gemma2", "phi3", "olmo2", "gpt-neox")
TARGETS = {"phi3": ("qkv_proj", "o_proj", "gate_up_proj", "down_proj"), "gpt-neox": ("query_key_value", "dense")}
TOLERANCE = 1e-4
INVOCATION = [9, 30, 9]
HAS_ALORA = "alora_invocation_tokens" in {field.name for field in fields(peft.LoraConfig)}


def kinds(family: str, head: str) -> dict[str, dict[str, Any]]:
    """Name -> what `tiny_adapter` is to make."""
    targets = TARGETS.get(family, LLAMA_LINEARS)
    first, second = targets[:2]
    return {
        "lora": {"targets": targets},
        "rslora": {"targets": targets, "rslora": True, "rank": 5},
        "dora": {"targets": targets, "use_dora": True},
        "dora-rslora": {"targets": targets[:1], "use_dora": True, "rslora": True},
        "patterns": {
            "targets": targets,
            "rank_pattern": {f"layers.0.*{first}": 7, second: 2},
            "alpha_pattern": {rf".*\.1\..*({first}|{second})": 3, first: 11},
        },
        "rslora-patterns": {"targets": targets, "rslora": True, "rank_pattern": {first: 1}},
        "regex": {"targets": rf".*\.layers\.[1-9]\..*({first}|{second})"},
        "all-linear": {"targets": "all-linear", "rank": 2},
        "layers": {
            "targets": targets,
            "layers_to_transform": [1],
            "layers_pattern": "layers",
            "exclude_modules": [first],
        },
        "head": {"targets": [first, head]},
        "head-dora": {"targets": [head], "use_dora": True},
        "pissa": {"targets": targets, "init_lora_weights": "pissa"},
        "olora": {"targets": targets, "init_lora_weights": "olora"},
        "pissa-dora": {"targets": [second], "init_lora_weights": "pissa", "use_dora": True, "rslora": True},
    }


MIXES = (
    "dora:0.7+lora:-0.4",
    "dora:0.5+head:0.8+pissa:-0.6",
    "head-dora:1.3+layers:0.9+patterns:-0.5+rslora:0.4",
    "all-linear:-0.3+dora-rslora+olora:0.5+pissa-dora:0.7",
)


@dataclass(frozen=True)
class Family:
    llm: LLM
    base: PreTrainedModel
    deltas: dict[str, dict[str, torch.Tensor]]

    def reference(self, mix: str) -> PreTrainedModel:
        members = [member.partition(":") for member in mix.split("+") if mix != "base"]
        return with_deltas(self.base, [(self.deltas[name], float(weight or 1)) for name, _, weight in members])


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Family:
    folder = tmp_path_factory.mktemp(request.param)
    model = tiny_model(folder / "model", request.param)
    llm = LLM(model, dtype="float32", kv_cache_memory="8MiB", max_loras=14)
    base, deltas = reference_model(model), {}
    head = next(name for name, module in base.named_modules() if module is base.get_output_embeddings())
    for seed, (name, config) in enumerate(kinds(request.param, head).items()):
        path = tiny_adapter(folder / name, model, seed=seed, **config)
        deltas[name] = peft_deltas(base, path)
        llm.load_adapter(path)
    return Family(llm, base, deltas)


def prompt(length: int, seed: int = 0) -> list[int]:
    return [3 + (7 * i * i + 31 * seed + i) % 300 for i in range(length)]


def packed_logits(llm: LLM, rows: Ids[tuple[list[int], str]]) -> list[torch.Tensor]:
    """The logits of every token of (token ids, mix), all in one packed pass: (len(token ids), vocab_size) each."""
    core, scheduled = llm._core, []
    for ids, mix in rows:
        adapters = merge_members(core.adapters.resolve(mix)[1])
        active_from = core.adapters.active_from(adapters, ids)
        seq = Sequence("test", ids, SamplingParams(), adapters, active_from=active_from, generates=False)
        assert core.adapters.slots.acquire(adapters) and core.pool.allocate(seq, len(ids))
        scheduled.append(ScheduledSequence(seq, len(ids), len(ids)))
    logits = core.runner.logits(Batch(tuple(scheduled))).float().cpu()
    for row in scheduled:
        core.pool.release(row.seq)
        core.adapters.slots.release(row.seq.adapters)
    return list(logits.split([len(ids) for ids, _ in rows]))


def test_every_kind_and_sums_of_up_to_four_equal_the_oracle_in_one_packed_pass(family: Family) -> None:
    mixes = ["base", *family.deltas, *MIXES]
    rows = [(prompt(5 + 3 * i % 20, seed=i), mix) for i, mix in enumerate(mixes)]
    for (ids, mix), logits in zip(rows, packed_logits(family.llm, rows), strict=True):
        reference = reference_logits(family.reference(mix), ids)
        difference = (logits - reference).abs().max().item()
        allowed = max(TOLERANCE, 1e-5 * reference.abs().max().item())  # float32 rounds in proportion to the logits
        assert difference <= allowed, f"{mix}: {difference}"
        if mix != "base":
            assert (reference - reference_logits(family.base, ids)).abs().max() > 0.05  # it does change something


def test_greedy_answers_of_every_kind_are_the_oracles(family: Family) -> None:
    mixes = ["dora", "pissa", "head", "patterns", MIXES[2]]
    prompts = [prompt(9, seed=i) for i in range(len(mixes))]
    greedy = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True)
    for ids, mix, out in zip(prompts, mixes, family.llm.generate(prompts, greedy, mixes), strict=True):
        assert_greedy_matches(family.reference(mix), ids, out.token_ids)


def test_at_weight_zero_every_kind_is_the_base_exactly(family: Family) -> None:
    rows = [(prompt(12), "base"), *((prompt(12), f"{name}:0") for name in family.deltas)]
    base, *others = packed_logits(family.llm, rows)
    assert all(torch.equal(logits, base) for logits in others)


def test_once_unloaded_nothing_of_any_kind_is_left(family: Family, tmp_path: Path) -> None:
    model = Path(family.base.name_or_path)
    llm = LLM(model, dtype="float32", kv_cache_memory="8MiB", max_loras=14)
    (before,) = packed_logits(llm, [(prompt(12), "base")])
    for name in family.deltas:
        llm.load_adapter(model.parent / name)
    packed_logits(llm, [(prompt(12), name) for name in family.deltas])
    for name in family.deltas:
        llm.unload_adapter(name)
    (after,) = packed_logits(llm, [(prompt(12), "base")])
    assert torch.equal(before, after)


def test_the_kinds_are_named(family: Family) -> None:
    named = {info.name: info.kind for info in family.llm.adapters}
    expected = dict.fromkeys(("dora", "dora-rslora", "head-dora", "pissa-dora"), "dora")
    expected |= dict.fromkeys(("rslora", "rslora-patterns"), "rslora")
    assert named == {name: expected.get(name, "lora") for name in family.deltas}


def test_a_pissa_adapter_that_was_converted_when_saved_is_a_plain_lora(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "model")
    config = peft.LoraConfig(r=4, lora_alpha=6, target_modules=["q_proj", "up_proj"], init_lora_weights="pissa")
    trained = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(model), config)
    trained.peft_config["default"].init_lora_weights = True
    trained.save_pretrained(tmp_path / "start")
    trained.peft_config["default"].init_lora_weights = "pissa"
    pretend_to_train(trained, seed=3)
    trained.save_pretrained(tmp_path / "as-it-is")
    trained.save_pretrained(tmp_path / "converted", path_initial_model_for_weight_conversion=str(tmp_path / "start"))
    llm = LLM(model, dtype="float32", kv_cache_memory="1MiB")
    ids = prompt(20)
    expected = reference_logits(reference_model(model, [(tmp_path / "as-it-is", 1.0)]), ids)
    for name, rank in (("as-it-is", 4), ("converted", 8)):
        assert llm.load_adapter(tmp_path / name).rank == rank
        (logits,) = packed_logits(llm, [(ids, name)])
        torch.testing.assert_close(logits, expected, atol=TOLERANCE, rtol=0)


def test_pissa_keeps_what_training_changed_where_weights_have_16_bits(tmp_path: Path) -> None:
    """B A minus its start is a small difference of large products."""
    model = tmp_path / "model"
    tiny_tokenizer().save_pretrained(model)
    reference_model(tiny_model(tmp_path / "wide")).bfloat16().save_pretrained(model)
    config = peft.LoraConfig(r=4, lora_alpha=4, target_modules=["q_proj"], init_lora_weights="pissa")
    trained = peft.get_peft_model(reference_model(model), config)
    for module in trained.modules():
        if isinstance(module, LoraLayer):
            module.lora_B["default"].weight.data.mul_(1.001)
    trained.save_pretrained(tmp_path / "pissa")
    llm = LLM(model, dtype="bfloat16", kv_cache_memory="1MiB")
    llm.load_adapter(tmp_path / "pissa")
    delta = llm._core.adapters.slots._find(llm.adapters[0].digest).deltas["model.layers.0.self_attn.q_proj"]
    theirs = peft_deltas(reference_model(model), tmp_path / "pissa")["model.layers.0.self_attn.q_proj"]
    assert (delta.b.float() @ delta.a.float() - theirs).norm() < 0.02 * theirs.norm()


def activated(base: PreTrainedModel, deltas: dict[str, torch.Tensor], weight: float, start: int, ids: list[int]) -> Any:
    """Logits of the base with `weight` times the deltas on tokens from `start` on."""
    hooks = []
    for name, delta in deltas.items():

        def add(module: Any, args: Any, output: torch.Tensor, delta: torch.Tensor = delta) -> torch.Tensor:
            acting = torch.zeros(output.shape[1], 1)
            acting[start:] = weight
            return output + acting * (args[0] @ delta.T)

        hooks.append(base.get_submodule(name).register_forward_hook(add))
    logits = reference_logits(base, ids)
    for hook in hooks:
        hook.remove()
    return logits


@pytest.mark.skipif(not HAS_ALORA, reason="this PEFT has no activated LoRA")
@pytest.mark.parametrize("family", ["llama-tied", "qwen3", "gemma2", "phi3"])
def test_an_activated_lora_acts_from_its_last_invocation_on(family: str, tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "model", family)
    targets = TARGETS.get(family, LLAMA_LINEARS)
    path = tiny_adapter(tmp_path / "alora", model, targets=targets, alora_invocation_tokens=INVOCATION)
    llm = LLM(model, dtype="float32", kv_cache_memory="1MiB")
    assert llm.load_adapter(path).kind == "alora"
    lora = tiny_adapter(tmp_path / "lora", model, seed=5, targets=targets)
    llm.load_adapter(lora)
    before = [*prompt(6), *INVOCATION, *prompt(7, 1)]
    ids = [*before, *INVOCATION, *prompt(5, 2)]
    rows = [(ids, "alora"), (ids, "lora"), (ids, "alora:0.7"), (prompt(11), "alora"), (prompt(11), "base")]
    alora, _, weighted, uncalled, base_logits = packed_logits(llm, rows)
    base = reference_model(model)
    deltas = peft_deltas(base, path)
    theirs = peft.PeftModelForCausalLM.from_pretrained(reference_model(model), path)
    with torch.no_grad():
        expected = theirs(torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long)).logits[0]
    torch.testing.assert_close(alora, expected, atol=TOLERANCE, rtol=0)
    expected = activated(base, deltas, 0.7, len(before), ids)
    torch.testing.assert_close(weighted, expected, atol=TOLERANCE, rtol=0)
    assert torch.equal(uncalled, base_logits)
