"""The whole engine on a GPU: what `auto` takes, and that its answers are those of any other attention."""

from pathlib import Path

import pytest
import torch

from mp13 import LLM, SamplingParams
from mp13.engine.attention.registry import AttentionNeed, why_not
from tests.engine.tiny_models import LLAMA_LINEARS, tiny_adapter, tiny_model

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")]
TEXTS = [[3 + (7 * i * i + 31 * seed + i) % 300 for i in range(length)] for seed, length in enumerate((300, 5, 70, 33))]
MIXES = ["a", None, "a:0.5", "a"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"), "llama", head_dim=64)


def engine(model: Path, adapter: Path, **options: object) -> LLM:
    llm = LLM(model, device="cuda", kv_cache_memory="64MiB", **{"dtype": "bfloat16", "block_size": 64, **options})
    llm.load_adapter(adapter, "a")
    return llm


@pytest.mark.parametrize("name", ["triton", "xformers", "flash_attention_2", "flash_attention_3", "flash_attention_4"])
@pytest.mark.parametrize("model_impl", ["native", "transformers"])
def test_texts_are_judged_as_under_sdpa(name: str, model_impl: str, model: Path, tmp_path: Path) -> None:
    block_size = 256 if name == "flash_attention_2" else 64
    if reason := why_not(name, AttentionNeed(torch.device("cuda"), torch.bfloat16, 64, block_size)):
        pytest.skip(reason)
    adapter = tiny_adapter(tmp_path / "a", model, targets=LLAMA_LINEARS)
    options = {"model_impl": model_impl, "block_size": block_size}
    found = engine(model, adapter, attn_implementation=name, **options).score(TEXTS, MIXES)
    expected = engine(model, adapter, attn_implementation="sdpa", **options).score(TEXTS, MIXES)
    for ours, theirs in zip(found, expected, strict=True):
        difference = torch.tensor(ours[1:]) - torch.tensor(theirs[1:])
        assert difference.abs().mean() < 0.05, "log-probabilities differ by more than bfloat16 explains"


def test_auto_takes_triton_for_16_bits_and_sdpa_for_32(model: Path, tmp_path: Path) -> None:
    adapter = tiny_adapter(tmp_path / "a", model, targets=LLAMA_LINEARS)
    if why_not("triton", AttentionNeed(torch.device("cuda"), torch.bfloat16, 64, 16)):
        pytest.skip("there is no Triton here")
    half = engine(model, adapter, block_size=16)
    assert half.info.attn_implementation in ("triton", "flash_attention_3")
    assert engine(model, adapter, dtype="float32").info.attn_implementation == "sdpa"
    greedy = SamplingParams(temperature=0, max_tokens=40, ignore_eos=True)
    together = half.generate(TEXTS, greedy, MIXES)
    assert [len(out.token_ids) for out in together] == [40] * 4
