"""What `quantization` may say: names, a canonical text, tables. Everything else is refused before anything starts."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from mp13.chat.settings.load import load_settings
from mp13.engine.config import EngineConfig
from mp13.engine.quantization import Quantization, parse_quantization, stored_table
from mp13.errors import ConfigError


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("none", "none"),
        ("hqq-8bit", "hqq-8bit"),
        ({"bits": 2}, "hqq-2bit"),
        ({"bits": 4, "group_size": 64}, "hqq-4bit g64"),
        ({"bits": 4, "group_size": 128, "axis": 0, "head": 8, "embeddings": 3},
         "hqq-4bit g128 axis0 head 8bit embeddings 3bit"),
        ({"bits": 4, "head": "none", "axis": 1, "kernel": "auto"}, "hqq-4bit"),
        ('{"bits": 4, "kernel": "int4"}', "hqq-4bit kernel int4"),
        ("hqq-4bit  head 4bit   g32", "hqq-4bit g32 head 4bit"),
    ],
)  # fmt: skip
def test_every_way_to_say_it_has_one_canonical_text(value: Any, text: str) -> None:
    config = EngineConfig("m", quantization=value)
    assert config.quantization == text
    assert EngineConfig("m", quantization=text) == config
    parsed = parse_quantization(text)
    assert str(parsed or "none") == text
    assert parsed is None or str(parse_quantization(stored_table(parsed) | {"kernel": parsed.kernel})) == text


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ("int4", "give one of none, hqq-8bit, hqq-4bit, hqq-3bit, hqq-2bit, or a table"),
        ("hqq-5bit", "give one of none"),
        ("HQQ-4bit", "give one of none"),
        (None, "give one of none"),
        (4, "give one of none"),
        (["hqq-4bit"], "give one of none"),
        ("{bits: 4}", "give a table in JSON"),
        ("[4]", "give one of none"),
        ({}, "give a table with bits, one of 8, 4, 3, 2"),
        ({"group_size": 64}, "give a table with bits"),
        ({"bits": 5}, r"\(bits = 5 is not known\); give one of 8, 4, 3, 2"),
        ({"bits": True}, "bits = True"),
        ({"bits": 4.0}, r"bits = 4\.0"),
        ({"bits": "4"}, "bits = '4'"),
        ({"bits": 4, "group_size": 60}, "group_size = 60 is not known.*give one of none, 8, 16, 32"),
        ({"bits": 4, "axis": 2}, "axis = 2 is not known.*give one of 0, 1"),
        ({"bits": 4, "head": 5}, "head = 5 is not known.*give one of none, 8, 4, 3, 2"),
        ({"bits": 4, "embeddings": [4]}, r"embeddings = \[4\] is not known"),
        ({"bits": 4, "kernel": "triton"}, "kernel = 'triton' is not known.*give one of auto, int4"),
        ({"bits": 4, "groupsize": 64}, "'groupsize' is not known.*give keys among bits, group_size"),
        ("hqq-4bit g64x", "'g64x' is not known"),
        ("hqq-4bit head 4", "'head 4' is not known"),
    ],
)
def test_anything_else_is_refused_with_its_value_and_a_fix(value: Any, sentence: str) -> None:
    with pytest.raises(ConfigError, match=f"^quantization = .*cannot be used.*{sentence}"):
        EngineConfig("m", quantization=value)


def test_it_reaches_the_engine_process_as_it_was_asked() -> None:
    config = EngineConfig("m", quantization={"bits": 4, "head": 4, "kernel": "int4"})
    adapter = TypeAdapter(EngineConfig)
    assert adapter.validate_json(adapter.dump_json(config)) == config


def test_a_settings_file_has_a_table_and_a_flag_its_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mp13.toml").write_text('quantization = { bits = 3, head = 8, embeddings = "none" }\n')
    settings = load_settings()
    assert settings._engine_config("m").quantization == "hqq-3bit head 8bit"
    flagged = load_settings({"quantization": '{"bits": 2, "axis": 0}'})
    assert flagged._engine_config("m").quantization == "hqq-2bit axis0"
    monkeypatch.setenv("MP13_QUANTIZATION", "hqq-4bit g128")
    assert load_settings()._engine_config("m").quantization == "hqq-4bit g128"


WIDTHS = {"wide": 256, "narrow": 96}


def test_without_a_group_size_the_largest_up_to_64_that_fits_every_layer_is_taken() -> None:
    assert Quantization(4).fitted({"wide": 256}).group_size == 64
    assert Quantization(4).fitted(WIDTHS).group_size == 32


def test_a_group_size_that_does_not_fit_names_the_layer_and_those_that_do() -> None:
    assert Quantization(4, 32).fitted(WIDTHS).group_size == 32
    sentence = "group_size = 64 cannot be used: it does not divide the 96 in_features of narrow; 8, 16, 32 would"
    with pytest.raises(ConfigError, match=sentence):
        Quantization(4, 64).fitted(WIDTHS)
    with pytest.raises(ConfigError, match="the 100 in_features of odd; no group size fits; give quantization = 'none'"):
        Quantization(4).fitted({"wide": 256, "odd": 100})


def test_what_decides_the_weights_leaves_out_the_kernel_and_the_usual_group_size() -> None:
    assert str(Quantization(4, 64, kernel="int4").of_weights) == "hqq-4bit"
    assert str(Quantization(4, 32, head=4).of_weights) == "hqq-4bit g32 head 4bit"
