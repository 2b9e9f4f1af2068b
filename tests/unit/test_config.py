"""The engine's settings: names, ranges and sizes are checked before anything heavy starts."""

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from mp13.engine.config import EngineConfig
from mp13.errors import ConfigError, UnsupportedError


def config(**settings: Any) -> EngineConfig:
    return EngineConfig(model="some/model", **settings)


def test_a_folder_may_be_given_as_a_path() -> None:
    assert EngineConfig(model=Path("models") / "x").model == str(Path("models/x"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("dtype", "float8"), ("dtype", None), ("device", "gpu"), ("device", "cuda:"), ("device", "cuda:x"),
        ("model_impl", "vllm"), ("attn_implementation", "flash"), ("quantization", "int4"),
        ("quantization", {"bits": 5}), ("kv_policy", "exakt"),
        ("max_model_len", 1), ("max_model_len", -5), ("max_model_len", "4k"),
        ("block_size", 0), ("block_size", 1.5), ("block_size", "16"), ("block_size", True),
        ("max_num_seqs", 0), ("max_num_batched_tokens", -1), ("max_lora_rank", 0), ("tensor_parallel_size", 1.0),
        ("max_loras", -1), ("max_loras", None), ("max_cpu_loras", -1), ("seed", -1), ("seed", 2**63), ("seed", None),
        ("gpu_memory_utilization", 0), ("gpu_memory_utilization", 1.5), ("gpu_memory_utilization", math.nan),
        ("gpu_memory_utilization", "90%"),
        ("enable_prefix_caching", "no"), ("enforce_eager", 1), ("trust_remote_code", "false"),
        ("kv_cache_memory", 0), ("kv_cache_memory", "0GiB"), ("kv_cache_memory", -1), ("kv_cache_memory", "much"),
        ("kv_cache_memory", "2G"), ("kv_cache_memory", "2 PiB"), ("kv_cache_memory", ""), ("kv_cache_memory", "1e9"),
        ("kv_cache_memory", True), ("kv_cache_memory", "0.5B"),
    ],
)  # fmt: skip
def test_a_setting_that_cannot_be_used_is_refused_in_one_sentence(name: str, value: Any) -> None:
    with pytest.raises((ConfigError, UnsupportedError)) as refusal:
        config(**{name: value})
    sentence = str(refusal.value)
    assert sentence.startswith(f"{name} = {value!r} ")
    assert ("; give " in sentence or "; choose " in sentence) and "\n" not in sentence


@pytest.mark.parametrize("model", ["", "  "])
def test_a_model_must_be_named(model: str) -> None:
    with pytest.raises(ConfigError, match="Hub id"):
        EngineConfig(model=model)


@pytest.mark.parametrize(
    ("name", "value"),
    [("tensor_parallel_size", 2)],
)
def test_a_known_value_whose_feature_has_not_landed_says_so_and_what_to_choose(name: str, value: Any) -> None:
    with pytest.raises(UnsupportedError, match=f"{name} = .*is not supported yet; choose "):
        config(**{name: value})


@pytest.mark.parametrize("device", ["auto", "cpu", "mps", "cuda", "cuda:1"])
def test_devices_are_named_as_torch_names_them(device: str) -> None:
    assert config(device=device).device == device


def test_the_host_cannot_keep_fewer_adapters_than_the_device() -> None:
    with pytest.raises(ConfigError, match=r"max_cpu_loras = 4 .* max_loras \(8\) or more"):
        config(max_cpu_loras=4)


@pytest.mark.parametrize(
    ("written", "size"),
    [
        (None, None), (1, 1), (123, 123), ("123", 123), ("123B", 123), ("1kB", 1000), ("1.5 KiB", 1536),
        (" 2GiB ", 2**31), ("2gib", 2**31), ("0.5GB", 500_000_000), ("3 TiB", 3 * 2**40), ("1.1KB", 1100),
        ("9007199254740993", 9007199254740993),
    ],
)  # fmt: skip
def test_cache_memory_is_bytes_or_a_size_with_its_unit(written: int | str | None, size: int | None) -> None:
    assert config(kv_cache_memory=written).kv_cache_bytes == size


@given(st.text("0123456789.KMGTiBkb ", max_size=400) | st.text(max_size=20))
def test_any_text_for_cache_memory_is_a_size_or_a_config_error(text: str) -> None:
    try:
        size = config(kv_cache_memory=text).kv_cache_bytes
    except ConfigError as refusal:
        assert repr(text) in str(refusal)
    else:
        assert size is not None and size > 0


def test_an_absurdly_large_size_is_still_a_number() -> None:
    assert config(kv_cache_memory="9" * 400).kv_cache_bytes > 2**1000  # type: ignore[operator]


@given(st.builds(config, block_size=st.integers(1, 512), seed=st.integers(0, 2**63 - 1),
                 max_model_len=st.none() | st.integers(2, 10**6), kv_cache_memory=st.sampled_from([None, 7, "2GiB"]),
                 enforce_eager=st.booleans()))  # fmt: skip
def test_settings_survive_the_way_to_the_engine_process(settings: EngineConfig) -> None:
    wire = TypeAdapter(EngineConfig)
    assert wire.validate_json(wire.dump_json(settings)) == settings
