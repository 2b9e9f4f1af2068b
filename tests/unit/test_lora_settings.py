"""adapter_config.json: what is read from it, and that nothing in it which would change the result is passed over."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from mp13.engine.adapters.adapter_config import LoraSettings, read_lora_settings
from mp13.errors import AdapterError

# As PEFT 0.21 writes it.
PLAIN = {
    "alora_invocation_tokens": None, "alpha_pattern": {}, "arrow_config": None, "auto_mapping": None,
    "base_model_name_or_path": "org/base", "bias": "none", "corda_config": None, "ensure_weight_tying": False,
    "eva_config": None, "exclude_modules": None, "fan_in_fan_out": False, "inference_mode": True,
    "init_lora_weights": True, "kasa_config": None, "layer_replication": None, "layers_pattern": None,
    "layers_to_transform": None, "loftq_config": {}, "lora_alpha": 8, "lora_bias": False, "lora_dropout": 0.05,
    "lora_ga_config": None, "megatron_config": None, "megatron_core": "megatron.core", "modules_to_save": None,
    "monteclora_config": None, "peft_type": "LORA", "peft_version": "0.21.2", "qalora_group_size": 16, "r": 4,
    "rank_pattern": {}, "revision": None, "target_modules": ["v_proj", "q_proj"], "target_parameters": None,
    "task_type": "CAUSAL_LM", "trainable_token_indices": None, "use_bdlora": None, "use_dora": False,
    "use_qalora": False, "use_rslora": False, "velora_config": None,
}  # fmt: skip


MERGE = "`mp13 adapters merge mine --model OUT` makes a model of it"
PATH = "model.layers.0.self_attn.q_proj"


def read(folder: Path, config: Any) -> LoraSettings:
    text = config if isinstance(config, (str, bytes)) else json.dumps(config)
    (folder / "adapter_config.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_lora_settings(folder, "mine")[0]


def refusal(folder: Path, config: Any) -> str:
    with pytest.raises(AdapterError) as refused:
        read(folder, config)
    sentence = str(refused.value)
    assert str(folder / "adapter_config.json") in sentence and "\n" not in sentence and len(sentence) < 500
    return sentence


def test_what_peft_writes_is_read(tmp_path: Path) -> None:
    settings = read(tmp_path, PLAIN)
    assert (settings.kind, settings.base_model, settings.init, settings.invocation) == ("lora", "org/base", None, None)
    assert (settings.choice.rank, settings.choice.targets) == (4, ("q_proj", "v_proj"))
    assert settings.scale_of(PATH) == 2.0


def test_the_bytes_come_back_for_the_digest(tmp_path: Path) -> None:
    read(tmp_path, PLAIN)
    assert read_lora_settings(tmp_path, "mine")[1] == (tmp_path / "adapter_config.json").read_bytes()


def test_rslora_scales_by_the_root_of_the_rank(tmp_path: Path) -> None:
    settings = read(tmp_path, {**PLAIN, "use_rslora": True, "r": 16, "lora_alpha": 24})
    assert (settings.kind, settings.scale_of(PATH)) == ("rslora", 24 / math.sqrt(16))


@pytest.mark.parametrize("alpha", [0, -3, 0.5, 1e-300])
def test_any_finite_alpha_is_taken(tmp_path: Path, alpha: float) -> None:
    assert read(tmp_path, {**PLAIN, "lora_alpha": alpha}).scale_of(PATH) == alpha / 4


def test_patterns_give_modules_a_rank_and_an_alpha_of_their_own(tmp_path: Path) -> None:
    patterns = {"rank_pattern": {"q_proj": 8}, "alpha_pattern": {r"layers\.0\..*": 2}}
    settings = read(tmp_path, {**PLAIN, **patterns})
    assert settings.choice.rank_of(PATH) == 8
    assert settings.scale_of(PATH) == 2 / 8
    assert settings.scale_of(PATH.replace("q_proj", "v_proj")) == 2 / 4
    assert settings.scale_of(PATH.replace("layers.0", "layers.1")) == 8 / 8


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"use_dora": True}, "dora"), ({"use_dora": True, "use_rslora": True}, "dora"),
        ({"alora_invocation_tokens": [1, 2]}, "alora"), ({"init_lora_weights": "pissa"}, "lora"),
    ],
)  # fmt: skip
def test_the_kind_is_what_the_settings_say(tmp_path: Path, fields: dict[str, Any], kind: str) -> None:
    assert read(tmp_path, {**PLAIN, **fields}).kind == kind


def test_a_regular_expression_chooses_modules(tmp_path: Path) -> None:
    choice = read(tmp_path, {**PLAIN, "target_modules": r".*\.q_proj"}).choice
    assert choice.includes(PATH, is_head=False)
    assert not choice.includes(PATH.replace("q_proj", "v_proj"), is_head=False)


def test_fields_of_a_later_peft_are_no_obstacle_while_they_are_off(tmp_path: Path) -> None:
    assert (
        read(tmp_path, {**PLAIN, "later": None, "later_still": False, "much_later": {}, "latest": []}).choice.rank == 4
    )


@pytest.mark.parametrize("kind", ["IA3", "LOHA", "LOKR", "ADALORA", "VERA", "OFT"])
def test_other_kinds_of_adapters_are_refused_with_the_way_to_a_model(tmp_path: Path, kind: str) -> None:
    sentence = refusal(tmp_path, {**PLAIN, "peft_type": kind})
    assert f"type {kind!r} cannot run" in sentence and MERGE in sentence


@pytest.mark.parametrize("kind", ["PREFIX_TUNING", "lora", 3, ["LORA"]])
def test_what_cannot_be_merged_either_is_to_be_trained_again(tmp_path: Path, kind: Any) -> None:
    sentence = refusal(tmp_path, {**PLAIN, "peft_type": kind})
    assert f"type {kind!r} cannot run" in sentence and "train it again as a LoRA" in sentence


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("modules_to_save", ["lm_head"]), ("lora_bias", True), ("use_qalora", True), ("layer_replication", [[0, 2]]),
        ("trainable_token_indices", [5]), ("target_parameters", ["w"]), ("arrow_config", {"top_k": 1}),
        ("use_bdlora", {"nblocks": 2}), ("kasa_config", {"beta": 1}), ("megatron_config", {"x": 1}),
        ("something_new", "on"), ("something_new", 1),
    ],
)  # fmt: skip
def test_a_field_that_changes_the_result_is_refused_by_name_and_value(tmp_path: Path, field: str, value: Any) -> None:
    sentence = refusal(tmp_path, {**PLAIN, field: value})
    assert field in sentence and f"= {value!r}" in sentence and MERGE in sentence


@pytest.mark.parametrize("bias", ["all", "lora_only", True])
def test_trained_biases_are_refused(tmp_path: Path, bias: Any) -> None:
    sentence = refusal(tmp_path, {**PLAIN, "bias": bias})
    assert f"bias = {bias!r} changes the model's biases" in sentence and MERGE in sentence


@pytest.mark.parametrize("init", ["pissa_niter_4", "corda", "lora_ga", "loftq", ["pissa"], 7])
def test_an_initialisation_whose_part_of_the_base_is_lost_is_refused(tmp_path: Path, init: Any) -> None:
    sentence = refusal(tmp_path, {**PLAIN, "init_lora_weights": init})
    assert f"init_lora_weights = {init!r}" in sentence and "path_initial_model_for_weight_conversion" in sentence


@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_an_initialisation_that_can_be_computed_again_is_kept(tmp_path: Path, init: str) -> None:
    assert read(tmp_path, {**PLAIN, "init_lora_weights": init}).init == init


@pytest.mark.parametrize("init", [True, False, None, "gaussian", "eva", "orthogonal"])
def test_an_initialisation_that_left_the_base_alone_is_not(tmp_path: Path, init: Any) -> None:
    assert read(tmp_path, {**PLAIN, "init_lora_weights": init}).init is None


@pytest.mark.parametrize("rank", [0, -1, 2.0, "8", None, True, 10**30])
def test_a_rank_that_is_none_is_refused(tmp_path: Path, rank: Any) -> None:
    assert f"r = {rank!r} is not a rank" in refusal(tmp_path, {**PLAIN, "r": rank})


@pytest.mark.parametrize("alpha", ["NaN", "Infinity", "-Infinity", '"8"', "null", "true", "1" + "0" * 400])
def test_an_alpha_that_is_no_finite_number_is_refused(tmp_path: Path, alpha: str) -> None:
    text = json.dumps({**PLAIN, "lora_alpha": "ALPHA"}).replace('"ALPHA"', alpha)
    assert "lora_alpha = " in refusal(tmp_path, text)


@pytest.mark.parametrize("value", ["true", 2, [True]])
def test_rslora_is_true_or_false(tmp_path: Path, value: Any) -> None:
    assert f"use_rslora = {value!r}" in refusal(tmp_path, {**PLAIN, "use_rslora": value})


@pytest.mark.parametrize("targets", [[], "", None, 5, ["q_proj", 5], {"q_proj": 1}])
def test_targets_that_name_nothing_are_refused(tmp_path: Path, targets: Any) -> None:
    assert f"target_modules = {targets!r} names no module" in refusal(tmp_path, {**PLAIN, "target_modules": targets})


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not valid JSON"), ("{", "not valid JSON"), ("peft_type: LORA", "not valid JSON"),
        (b"\xff\xfe\x00{", "not valid JSON"), (b'{"r": "\x80"}', "not valid JSON"),
        ('{"r": ' + "9" * 5000 + "}", "not valid"), ("[" * 200_000 + "]" * 200_000, "not valid JSON"),
        ("[]", "holds list"), ('"LORA"', "holds str"), ("null", "holds NoneType"),
        ('{"x": "' + "a" * (1 << 20) + '"}', "larger than 1,024 KiB"), ('{"' + "a" * 90_000 + '": 1}', "no peft_type"),
        ('{"peft_type": "LORA", "' + "a" * 90_000 + '": "' + "b" * 90_000 + '"}', "is a setting unknown here"),
    ],
    ids=["empty", "cut", "yaml", "utf16", "latin", "digits", "deep", "list", "text", "null", "huge", "kind", "field"],
)  # fmt: skip
def test_what_is_no_configuration_is_refused(tmp_path: Path, text: str | bytes, reason: str) -> None:
    assert reason in refusal(tmp_path, text)


def test_a_folder_without_the_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match=r"adapter_config\.json cannot be read \(No such file"):
        read_lora_settings(tmp_path, "mine")
