"""What the engine takes of a machine is known before it is taken, and running out of it is a sentence."""

import json
import math
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mp13 import LLM, AsyncEngine, SamplingParams
from mp13.engine import main_memory
from mp13.engine.config import EngineConfig
from mp13.engine.core import EngineCore
from mp13.engine.execution import model_runner, sizing
from mp13.engine.models import fitting, room
from mp13.engine.models.footprint import model_shape, weight_format
from mp13.engine.models.room import freed_on_failure, is_out_of_memory
from mp13.engine.request import ErrorEvent, FinishEvent
from mp13.errors import ConfigError, ModelError, OutOfMemory, UnsupportedError
from mp13.library.fit import estimate_fit, read_model
from tests.engine.gguf_files import write_gguf
from tests.engine.memory import LiveBytes
from tests.engine.tiny_models import LLAMA_LINEARS, tiny_adapter, tiny_model

GREEDY = SamplingParams(temperature=0, max_tokens=6, ignore_eos=True)
LARGE = {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 3, "num_attention_heads": 8,
         "num_key_value_heads": 2, "vocab_size": 4000, "max_position_embeddings": 2048}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("memory")
    tiny_model(folder / "model")
    tiny_model(folder / "large", **LARGE)
    return folder


def test_the_estimate_is_what_an_engine_takes(folder: Path) -> None:
    """Of a GPU's engine, played on the CPU in float32: weights, adapters, cache and a full step, each and together."""
    settings = {
        "dtype": "float32",
        "max_model_len": 512,
        "max_num_seqs": 3,
        "max_loras": 2,
        "max_lora_rank": 16,
        "max_num_batched_tokens": 512,
    }
    llm = LLM(folder / "large", kv_cache_memory=3 * 512 * 2 * 3 * 2 * 32 * 4, **settings)
    for name in ("a", "b"):
        llm.load_adapter(tiny_adapter(folder / name, folder / "large", targets=LLAMA_LINEARS, rank=16), name)
    core = llm._core
    model, cache = core.runner.model, core.runner._cache
    assert isinstance(model, torch.nn.Module)
    found = read_model(folder / "large")
    shape, itemsize = found.shape, found.itemsize
    assert itemsize == 4
    config = EngineConfig("any", **settings)  # type: ignore[arg-type]
    fit = estimate_fit(shape, config, weight_format("none", 4), 10**10, on_gpu=True)
    assert fit.weights == sum(parameter.nbytes for parameter in model.parameters())
    assert (fit.cache, fit.cache_tokens) == (cache.keys.nbytes + cache.values.nbytes, core.info.kv_cache_tokens)
    assert fit.longest == 512
    assert fit.adapters == core.adapters.reserved_bytes == sum(n.device_bytes for n in core.adapters._by_name.values())
    with LiveBytes() as meter:
        llm.generate([[5] * 500], GREEDY, "a")
    mlp = 512 * (4 * 256 + 3 * 768) * 4
    assert 0.9 * mlp <= meter.peak <= 1.02 * mlp
    with LiveBytes() as judging:
        core.score([6] * 512, ["a", "b"])
        while core.has_work():
            core.step()
    assert judging.peak <= fit.activations <= 1.15 * judging.peak


def test_the_shape_from_a_configuration_alone_is_that_of_the_weights(folder: Path) -> None:
    config = json.loads((folder / "large" / "config.json").read_text())
    assert model_shape(config).weight_bytes(weight_format("none", 2)) == read_model(
        folder / "large"
    ).shape.weight_bytes(weight_format("none", 2))


def test_a_gguf_file_is_as_large_as_the_model_it_was_made_of(folder: Path) -> None:
    path = write_gguf(folder / "large.gguf", folder / "large")
    assert read_model(path).shape.weight_bytes(weight_format("none", 2)) == read_model(
        folder / "large"
    ).shape.weight_bytes(weight_format("none", 2))


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="Linux alone tells what is mapped")
def test_a_model_that_is_loaded_holds_nothing_of_its_files(folder: Path) -> None:
    core = EngineCore(EngineConfig(str(folder / "model"), dtype="float32", device="cpu"))
    assert str(folder / "model") not in Path("/proc/self/maps").read_text()
    assert core.vocab_size > 0


def test_what_a_step_of_many_tokens_has_freed_is_given_back(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[bool] = []
    monkeypatch.setattr(model_runner, "give_back", lambda: given.append(True))
    llm = LLM(str(folder / "model"), device="cpu")
    llm.generate([[5] * 40], GREEDY)
    assert not given
    llm.generate([[5] * 300], GREEDY)
    assert len(given) == 1


def test_where_the_c_library_cannot_give_back_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    main_memory.give_back()
    for library in (lambda name: object(), _none_such):
        monkeypatch.setattr(main_memory.ctypes, "CDLL", library)
        main_memory.give_back()


def _none_such(name: str | None) -> None:
    raise OSError("no such library")


def test_weights_that_do_not_fit_are_refused_before_any_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needed = read_model(folder / "large").shape.weight_bytes(weight_format("none", 4))
    monkeypatch.setattr(fitting, "room_for", lambda *_: needed)
    monkeypatch.setattr("mp13.engine.models.source.Checkpoint", None)  # using it would be another error
    with pytest.raises(ModelError, match=r"need [\d.]+MiB as float32 and cpu has .*; dtype = 'bfloat16' would fit"):
        LLM(folder / "large", dtype="float32")
    monkeypatch.setattr(fitting, "room_for", lambda *_: 1000)
    with pytest.raises(ModelError, match="cpu has 1000B for them; choose a smaller model"):
        LLM(folder / "large", dtype="float32")


def test_weights_that_another_method_packed_need_what_their_files_do(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = replace(read_model(folder / "large").shape, packed_bytes=5000)
    config, cpu = EngineConfig("packed"), torch.device("cpu")
    monkeypatch.setattr(fitting, "room_for", lambda *_: 5000)
    fitting.require_room(config, shape, "none", torch.float32, cpu)
    monkeypatch.setattr(fitting, "room_for", lambda *_: 4999)
    with pytest.raises(ModelError, match=r"need .* as they are stored and cpu has .* for them; choose a smaller model"):
        fitting.require_room(config, shape, "none", torch.float32, cpu)


def test_a_step_that_does_not_fit_names_the_largest(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shape, form = read_model(folder / "large").shape, weight_format("none", 4)
    monkeypatch.setattr(sizing, "room_for", lambda *_: shape.activation_bytes(700, 4, form) + 1)
    with pytest.raises(ConfigError, match=r"max_num_batched_tokens = 2048 does not fit .* = 700 fits"):
        LLM(folder / "large", dtype="float32", max_loras=0)


def test_after_a_refusal_nothing_is_held_even_by_who_keeps_the_error(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[weakref.ref[Any]] = []

    def short(config: Any, loaded: Any, *_: Any) -> None:
        made.append(weakref.ref(loaded.model))
        raise ConfigError("no room")

    monkeypatch.setattr("mp13.engine.core.give_cache", short)
    with pytest.raises(ConfigError) as kept:
        LLM(folder / "model")
    assert kept.value.__traceback__ is not None and [ref() for ref in made] == [None]


def test_memory_that_runs_out_in_the_middle_of_loading_is_a_sentence(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    monkeypatch.setattr("mp13.engine.models.loader.Decoder", full)
    with pytest.raises(OutOfMemory, match=r"cpu ran out of memory while .* was loaded, with .* left for it now"):
        LLM(folder / "model")


@pytest.fixture(scope="module")
def core(folder: Path) -> EngineCore:
    return EngineCore(
        EngineConfig(
            str(folder / "model"), dtype="float32", kv_cache_memory="256KiB", block_size=4, enable_prefix_caching=False
        )
    )


def outputs(core: EngineCore, ids: list[str]) -> list[Any]:
    ends: dict[str, Any] = {}
    while core.has_work():
        for event in core.step():
            if isinstance(event, FinishEvent):
                ends[event.request_id] = event.output.token_ids
            elif isinstance(event, ErrorEvent):
                ends[event.request_id] = event.error
    return [ends[request_id] for request_id in ids]


def test_a_step_without_memory_ends_the_largest_request_and_the_others_answer_as_ever(
    core: EngineCore, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = [[5, 6, 7], list(range(5, 45)), [8, 9]]
    expected = outputs(core, [core.add(prompt, GREEDY) for prompt in prompts])
    real, kept = core.runner.run, []

    def run(batch: Any) -> Any:
        if any(row.num_new_tokens > 20 for row in batch.rows):
            activations = torch.zeros(1000)
            kept.append(weakref.ref(activations))
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return real(batch)

    monkeypatch.setattr(core.runner, "run", run)
    ids = [core.add(prompt, GREEDY) for prompt in prompts]
    ends = outputs(core, ids)
    assert isinstance(ends[1], OutOfMemory) and "lower max_num_batched_tokens" in str(ends[1])
    assert (ends[0], ends[2]) == (expected[0], expected[2])
    assert len(kept) == 1 and kept[0]() is None  # what the step had made is free although its error was handed out
    assert core.pool.num_free == core.pool.num_blocks and not core.has_work()


def test_a_request_for_which_an_allocation_fails_ends_and_the_next_is_answered(
    core: EngineCore, monkeypatch: pytest.MonkeyPatch
) -> None:
    [expected] = outputs(core, [core.add([5, 6, 7], GREEDY)])
    with monkeypatch.context() as patch:
        patch.setattr(core.runner, "model", lambda *_: torch.empty(2**60, dtype=torch.uint8))  # torch's own refusal
        [end] = outputs(core, [core.add([5, 6, 7], GREEDY)])
        [score] = outputs(core, [core.score([5, 6, 7], ["base"])])
    assert [type(end), type(score)] == [OutOfMemory] * 2
    assert outputs(core, [core.add([5, 6, 7], GREEDY)]) == [expected]


def test_an_adapter_for_which_there_is_no_memory_is_refused_and_the_engine_goes_on(
    core: EngineCore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [expected] = outputs(core, [core.add([5, 6, 7], GREEDY)])
    with monkeypatch.context() as patch, pytest.raises(OutOfMemory, match="no memory left"):
        patch.setattr(core.adapters, "_read", lambda *_: bytearray(2**62))
        core.load_adapter(tiny_adapter(folder / "large", folder / "model"))
    assert core.adapters.infos == []
    assert outputs(core, [core.add([5, 6, 7], GREEDY)]) == [expected]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("x"), True),
        (MemoryError(), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."), True),
        (RuntimeError("the shapes do not match"), False),
        (ValueError("out of memory"), False),
        (None, False),
    ],
)
def test_running_out_of_memory_is_told_from_other_errors(error: BaseException | None, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


def test_torch_itself_says_so_in_these_words() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)


def test_an_error_lets_go_of_all_it_went_through() -> None:
    refs = []

    def inner() -> None:
        weights = torch.zeros(10)
        refs.append(weakref.ref(weights))
        raise ConfigError("first")

    def outer() -> None:
        weights = torch.zeros(10)
        refs.append(weakref.ref(weights))
        try:
            inner()
        except ConfigError:
            raise ModelError("second") from None

    with pytest.raises(ModelError) as kept, freed_on_failure():
        outer()
    assert kept.value.__context__ is not None and [ref() for ref in refs] == [None, None]


class TestContainers:
    def write(self, root: Path, limit: str, used: int, cached: int) -> None:
        (root / "memory.max").write_text(limit)
        (root / "memory.current").write_text(str(used))
        (root / "memory.stat").write_text(f"anon 5\ninactive_file {cached}\n")

    def test_the_limit_of_a_container_counts_and_its_cached_files_do_not(self, tmp_path: Path) -> None:
        self.write(tmp_path, "1000", used=700, cached=100)
        assert main_memory._left_in_container(tmp_path) == 400
        self.write(tmp_path, "max", used=700, cached=100)
        assert main_memory._left_in_container(tmp_path) > 10**15
        assert main_memory._left_in_container(tmp_path / "none") > 10**15

    def test_the_older_kind_is_read_too(self, tmp_path: Path) -> None:
        memory = tmp_path / "memory"
        memory.mkdir()
        (memory / "memory.limit_in_bytes").write_text("1000")
        (memory / "memory.usage_in_bytes").write_text("900")
        (memory / "memory.stat").write_text("total_inactive_file 50\n")
        assert main_memory._left_in_container(tmp_path) == 150


class TestGpu:
    """The arithmetic of a GPU's share, with the numbers that torch would tell."""

    def share(self, monkeypatch: pytest.MonkeyPatch, *, others: int = 0, fraction: float = 1.0) -> int:
        total, reserved, allocated = 100_000, 30_000, 20_000
        told = {
            "mem_get_info": (total - reserved - others, total), "memory_reserved": reserved,
            "memory_allocated": allocated, "get_per_process_memory_fraction": fraction,
        }  # fmt: skip
        for name, value in told.items():
            monkeypatch.setattr(torch.cuda, name, lambda _, value=value: value, raising=False)
        return room.room_for(torch.device("cuda"), 0.9)

    def test_the_share_less_what_is_held(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert self.share(monkeypatch) == math.floor(90_000 * 0.98) - 20_000

    def test_what_others_hold_is_not_ours(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert self.share(monkeypatch, others=10_000) == math.floor(80_000 * 0.98) - 20_000

    def test_a_process_that_may_use_a_part_has_its_share_of_that(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert self.share(monkeypatch, others=500, fraction=0.5) == math.floor(45_000 * 0.98) - 20_000


class TestWhatIsChosen:
    def test_what_no_engine_could_run_is_known_before_weights_are_read(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("mp13.engine.models.source.Checkpoint", None)
        AsyncEngine.check(str(folder / "model"))
        AsyncEngine.check("some/where")  # a Hub id is not fetched for this
        for settings, error in (
            ({"attn_implementation": "nothing"}, "attn_implementation = 'nothing' cannot be used"),
            ({"device": "cuda:7"}, "device = 'cuda:7' is not on this machine"),
        ):
            with pytest.raises(ConfigError, match=error):
                AsyncEngine.check(str(folder / "model"), **settings)
        gemma = tiny_model(folder / "gemma2", "gemma2")
        with pytest.raises((ConfigError, UnsupportedError), match="'sdpa' cannot"):
            AsyncEngine.check(gemma, attn_implementation="sdpa")

    def test_why_an_attention_runs_is_in_the_description_and_in_the_log(
        self, folder: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level("INFO", "mp13"):
            info = LLM(folder / "model", attn_implementation="reference", kv_cache_memory="64KiB").info
        assert info.attn_reason == "chosen by the settings"
        assert "attention reference: chosen by the settings" in caplog.messages
