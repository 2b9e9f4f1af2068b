"""What an engine takes of a GPU stays within its share, is what was estimated, and is given back."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.random_model import LLAMA_8B, write_model
from benchmarks.workload import write_adapters
from mp13 import LLM, SamplingParams
from mp13.engine.config import EngineConfig
from mp13.engine.models.footprint import weight_format
from mp13.engine.models.room import free_memory
from mp13.engine.request import ErrorEvent, FinishEvent
from mp13.errors import ConfigError, ModelError, OutOfMemory
from mp13.library.fit import estimate_fit, read_model

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")]
GIB = 2**30
SMALL = LLAMA_8B | {
    "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 16,
    "num_key_value_heads": 4, "head_dim": 64, "vocab_size": 32000, "max_position_embeddings": 32768,
}  # fmt: skip
GREEDY = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True)
NUM_ADAPTERS = 4
Cap = Callable[[float], int]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gpu-memory")
    write_adapters(folder, write_model(folder / "model", SMALL), NUM_ADAPTERS)
    return folder


@pytest.fixture
def cap() -> Iterator[Cap]:
    """Gives this process so many bytes of the GPU, and all of it back after the test."""
    free_memory()
    torch.cuda.reset_peak_memory_stats()

    def set_cap(num_bytes: float) -> int:
        torch.cuda.set_per_process_memory_fraction(num_bytes / torch.cuda.mem_get_info()[1])
        return int(num_bytes)

    yield set_cap
    torch.cuda.set_per_process_memory_fraction(1.0)
    free_memory()


def loaded(folder: Path, **settings: Any) -> LLM:
    return LLM(folder / "model", device="cuda", max_loras=NUM_ADAPTERS, **settings)


def prompts(count: int, length: int) -> list[list[int]]:
    return [[10 + (row * 7919 + place * 31) % 30000 for place in range(length)] for row in range(count)]


def serve(llm: LLM, folder: Path, length: int) -> None:
    """Four long conversations, each under an adapter of its own, then a text judged by two of them, for both of which
    there may be no room beyond one conversation."""
    names = [llm.load_adapter(folder / f"adapter-{number}").name for number in range(NUM_ADAPTERS)]
    outputs = llm.generate(prompts(NUM_ADAPTERS, length - 8), GREEDY, names)
    assert [len(output.token_ids) for output in outputs] == [8] * NUM_ADAPTERS
    llm._core.score(prompts(1, length // 3)[0], names[:2])
    while llm._core.has_work():
        for event in llm._core.step():
            assert not isinstance(event, ErrorEvent), event.error


@pytest.mark.parametrize("gibs", [1.5, 4.0])
def test_the_peak_is_within_the_share_and_a_tenth_of_the_estimate(folder: Path, cap: Cap, gibs: float) -> None:
    """With 1.5 GiB the cache takes what is left, and answers wait for each other; with 4 it holds all of them."""
    memory, settings = cap(gibs * GIB), {"max_model_len": 8192, "max_num_seqs": 4, "max_loras": NUM_ADAPTERS}
    found = read_model(folder / "model")
    shape, itemsize = found.shape, found.itemsize
    config = EngineConfig("any", **settings)  # type: ignore[arg-type]
    fit = estimate_fit(shape, config, weight_format("none", itemsize), memory, on_gpu=True)
    llm = loaded(folder, max_model_len=8192, max_num_seqs=4)
    assert torch.cuda.memory_allocated() == pytest.approx(fit.weights + fit.cache, rel=0.1)
    serve(llm, folder, 8192)
    assert torch.cuda.max_memory_allocated() <= 0.9 * memory
    assert torch.cuda.max_memory_allocated() == pytest.approx(fit.total, rel=0.1)
    assert (llm._core.max_model_len, fit.longest) == (8192, 8192)


def test_without_a_length_the_longest_is_what_the_share_holds(folder: Path, cap: Cap) -> None:
    memory = cap(1.2 * GIB)
    llm = loaded(folder, max_num_seqs=2)
    assert 2048 < llm._core.max_model_len < 32768
    serve(llm, folder, llm._core.max_model_len)
    assert torch.cuda.max_memory_allocated() <= 0.9 * memory


@pytest.mark.parametrize(
    ("gibs", "settings", "error", "words"),
    [
        (0.3, {}, ModelError, "the weights of .* need .* and cuda:0 has .* for them"),
        (1.5, {"max_model_len": 32768, "kv_cache_memory": "64MiB"}, ConfigError, "at most max_model_len = "),
        (1.5, {"kv_cache_memory": "4GiB"}, ConfigError, "at most kv_cache_memory = "),
        (1.0, {"max_num_batched_tokens": 32768, "max_model_len": 32768}, ConfigError, "max_num_batched_tokens = "),
    ],
)
def test_what_does_not_fit_is_a_sentence_and_leaves_nothing(
    folder: Path, cap: Cap, gibs: float, settings: dict[str, Any], error: type[Exception], words: str
) -> None:
    before = torch.cuda.memory_allocated()
    cap(gibs * GIB)
    with pytest.raises(error, match=words) as kept:
        loaded(folder, **settings)
    assert torch.cuda.memory_allocated() == before, str(kept.value)


def test_the_setting_that_is_named_does_fit(folder: Path, cap: Cap) -> None:
    cap(1.0 * GIB)
    with pytest.raises(ConfigError) as caught:
        loaded(folder, max_num_batched_tokens=32768)
    named = int(str(caught.value).rpartition("max_num_batched_tokens = ")[2].split()[0])
    assert 0 < named < 32768
    try:
        loaded(folder, max_num_batched_tokens=named)
    except ConfigError as error:  # the step fits, and the cache beside it has no room for the model's whole length
        assert "max_num_batched_tokens" not in str(error)


def test_a_step_without_memory_ends_its_largest_request_alone(folder: Path, cap: Cap) -> None:
    cap(4 * GIB)
    llm = loaded(folder, max_model_len=8192, max_num_seqs=4)
    (expected,) = llm.generate(prompts(1, 16), GREEDY)
    free_memory()
    cap(torch.cuda.memory_reserved() + (24 << 20))  # no longer room for 2048 new tokens
    core = llm._core
    short, long = core.add(prompts(2, 16)[1], GREEDY), core.add(prompts(3, 4000)[2], GREEDY)
    again = core.add(prompts(1, 16)[0], GREEDY)
    ends: dict[str, Any] = {}
    while core.has_work():
        for event in core.step():
            if isinstance(event, ErrorEvent):
                ends[event.request_id] = event.error
            elif isinstance(event, FinishEvent):
                ends[event.request_id] = event.output.token_ids
    assert isinstance(ends[long], OutOfMemory) and "no memory left" in str(ends[long])
    assert len(ends[short]) == 8 and ends[again] == expected.token_ids


def test_adapters_are_held_once_whatever_steps_use(folder: Path, cap: Cap) -> None:
    cap(4 * GIB)
    llm = loaded(folder, max_model_len=512, max_num_seqs=4)
    before = torch.cuda.memory_allocated()
    names = [llm.load_adapter(folder / f"adapter-{number}").name for number in range(NUM_ADAPTERS)]
    own = sum(named.device_bytes for named in llm._core.adapters._by_name.values())
    assert own <= llm._core.adapters.reserved_bytes
    for mixes in ([names[0]], names[:2], names, [f"{names[1]}+{names[3]}"], names[2:], names):
        llm.generate(prompts(len(mixes), 20), GREEDY, mixes)
        assert torch.cuda.memory_allocated() - before <= 1.05 * own
    assert torch.cuda.memory_allocated() - before >= 0.95 * own
