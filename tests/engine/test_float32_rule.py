"""The design's float32 rule: greedy tokens equal eager Transformers plus the oracle sum, whatever shares the batch."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from mp13 import LLM, SamplingParams
from mp13.engine.execution.kv_cache import block_bytes
from tests.engine.tiny_models import (
    BRIDGED,
    LLAMA_LINEARS,
    NATIVE,
    assert_greedy_matches,
    reference_model,
    tiny_adapter,
    tiny_model,
)

MIXES = {"base": (), "a": (("a", 1.0),), "b:0.5": (("b", 0.5),), "a:0.7+b:-0.4": (("a", 0.7), ("b", -0.4))}
NUM_TOKENS = 12
GREEDY = SamplingParams(temperature=0, max_tokens=NUM_TOKENS, ignore_eos=True)
TARGETS = {
    "phi3": ("qkv_proj", "o_proj", "gate_up_proj", "down_proj"),
    "gpt-neox": ("query_key_value", "dense"),
    "qwen3-moe": ("q_proj", "k_proj", "v_proj", "o_proj"),
}
FAMILIES = (*NATIVE, *(family for family in BRIDGED if family != "gpt2"))  # GPT-2's linears are of another class


@dataclass(frozen=True)
class Family:
    path: Path
    adapters: dict[str, Path]
    references: dict[str, PreTrainedModel]

    def llm(self, **options: object) -> LLM:
        llm = LLM(self.path, **{"dtype": "float32", "kv_cache_memory": "8MiB", **options})
        for name, path in self.adapters.items():
            llm.load_adapter(path, name)
        return llm


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Family:
    return make_family(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Family:
    return make_family("llama", tmp_path_factory.mktemp("llama"))


def make_family(name: str, folder: Path) -> Family:
    path = tiny_model(folder / "model", name)
    targets = TARGETS.get(name, LLAMA_LINEARS)
    adapters = {
        "a": tiny_adapter(folder / "a", path, rank=4, targets=targets, seed=1),
        "b": tiny_adapter(folder / "b", path, rank=9, targets=targets[:2], seed=2, rslora=True),
    }
    references = {
        mix: reference_model(path, [(adapters[member], weight) for member, weight in members])
        for mix, members in MIXES.items()
    }
    return Family(path, adapters, references)


def prompt(length: int, seed: int = 0) -> list[int]:
    return [3 + (7 * i * i + 31 * seed + i) % 300 for i in range(length)]


def test_a_ragged_batch_of_all_mixes_answers_as_each_row_alone(family: Family) -> None:
    llm = family.llm()
    prompts = [prompt(length, seed) for seed, length in enumerate((3, 17, 33, 5, 1, 40, 16, 21))]
    mixes = [list(MIXES)[i % len(MIXES)] for i in range(len(prompts))]
    for ids, mix, out in zip(prompts, mixes, llm.generate(prompts, GREEDY, mixes), strict=True):
        assert out.adapters == mix
        assert_greedy_matches(family.references[mix], ids, out.token_ids)


def test_prompts_longer_than_a_chunk_and_a_cache_that_preempts(family: Family) -> None:
    llm = family.llm(max_num_batched_tokens=24, max_model_len=64, kv_cache_memory=_tokens(family, 96))
    prompts = [prompt(45, seed) for seed in range(4)]
    outs = llm.generate(prompts, GREEDY, ["base", "a", "a:0.7+b:-0.4", "b:0.5"])
    assert llm._core.scheduler.num_preemptions > 0
    for ids, mix, out in zip(prompts, ["base", "a", "a:0.7+b:-0.4", "b:0.5"], outs, strict=True):
        assert_greedy_matches(family.references[mix], ids, out.token_ids)


BOTH_WAYS = [
    (name, impl) for name in ("llama3-rope", "mistral", "qwen2", "qwen3") for impl in ("native", "transformers")
]
ONE_WAY = [(name, "transformers") for name in ("gemma3", "phi3", "granite")]


@pytest.mark.parametrize("attention", ["reference", "sdpa"])
@pytest.mark.parametrize(("name", "model_impl"), BOTH_WAYS + ONE_WAY)
def test_both_implementations_agree_under_every_backend(
    name: str, model_impl: str, attention: str, tmp_path: Path
) -> None:
    family = make_family(name, tmp_path)
    llm = family.llm(model_impl=model_impl, attn_implementation=attention)
    assert llm.info.model_impl == model_impl
    assert llm.info.attn_implementation == attention
    prompts = [prompt(30, 1), prompt(7, 2)]
    for ids, mix, out in zip(prompts, ["a", "base"], llm.generate(prompts, GREEDY, ["a", "base"]), strict=True):
        assert_greedy_matches(family.references[mix], ids, out.token_ids)


def test_a_growing_conversation_over_changing_mixes_equals_cold_runs(llama: Family) -> None:
    warm = llama.llm()
    history = prompt(40)
    cached = []
    for turn, mix in enumerate(["a", "b:0.5", "a", "base", "a:0.7+b:-0.4"]):
        cold = llama.llm().generate([history], GREEDY, mix)[0]
        out = warm.generate([history], GREEDY, mix)[0]
        assert out.token_ids == cold.token_ids
        assert_greedy_matches(llama.references[mix], history, out.token_ids)
        cached.append(out.metrics.cached_tokens)
        history = history + out.token_ids + prompt(5, seed=turn)
    assert cached[0] == cached[1] == cached[3] == cached[4] == 0
    assert cached[2] >= 48  # the second "a" finds the first turn's prompt and answer


def test_other_weights_under_the_same_name_do_not_find_the_old_blocks(llama: Family, tmp_path: Path) -> None:
    llm = llama.llm()
    ids = prompt(40)
    llm.generate([ids], GREEDY, "a")
    replacement = tiny_adapter(tmp_path / "other", llama.path, rank=4, targets=LLAMA_LINEARS, seed=77)
    llm.load_adapter(replacement, "a")
    out = llm.generate([ids], GREEDY, "a")[0]
    assert out.metrics.cached_tokens == 0
    assert_greedy_matches(reference_model(llama.path, [(replacement, 1.0)]), ids, out.token_ids)


def test_another_name_for_the_same_content_finds_its_blocks(llama: Family) -> None:
    llm = llama.llm()
    llm.generate([prompt(40)], GREEDY, "a")
    llm.load_adapter(llama.adapters["a"], "alias")
    assert llm.generate([prompt(40)], GREEDY, "alias")[0].metrics.cached_tokens == 32


def test_weight_zero_is_the_base_exactly_and_shares_its_blocks(llama: Family) -> None:
    llm = llama.llm()
    base = llm.generate([prompt(40)], GREEDY)[0]
    zero = llm.generate([prompt(40)], GREEDY, "a:0")[0]
    assert zero.token_ids == base.token_ids
    assert zero.metrics.cached_tokens == 32


def test_without_the_adapter_in_the_block_hash_answers_go_wrong(llama: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutation that the design names: the suite must notice it."""
    monkeypatch.setattr("mp13.engine.scheduling.sequence.adapter_key", lambda adapters: b"")
    llm = llama.llm()
    llm.generate([prompt(40)], GREEDY, "a")
    out = llm.generate([prompt(40)], GREEDY, "base")[0]
    assert out.metrics.cached_tokens == 32
    with pytest.raises(AssertionError, match="logit gap"):
        assert_greedy_matches(llama.references["base"], prompt(40), out.token_ids)


def _tokens(family: Family, count: int) -> int:
    """Bytes of a float32 KV cache of `count` tokens."""
    shape = family.llm()._core.runner.model.cache_shape
    return block_bytes(shape, block_size=1, dtype=torch.float32) * count
