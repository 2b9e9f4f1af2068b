"""Which implementation runs a model, and which models none can run, decided by the configuration alone."""

from typing import Any

import pytest
import torch
from transformers import AutoConfig

from mp13.engine.models.support import attention_need, choose_impl
from mp13.errors import ModelError

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "deepseek_v3": ({}, "latent attention"),
    "t5": ({}, "encoder-decoder"),
    "phi3": (
        {
            "rope_scaling": {"type": "longrope", "short_factor": [1.0] * 8, "long_factor": [2.0] * 8},
            "hidden_size": 64, "num_attention_heads": 4, "original_max_position_embeddings": 64,
        },
        "'longrope' changes with the length",
    ),
    "gemma2": ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "'dynamic' changes with the length"),
    "llama": ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "'dynamic' changes with the length"),
}  # fmt: skip


@pytest.mark.parametrize("model_type", REFUSED)
def test_what_the_configuration_rules_out_is_refused_before_loading(model_type: str) -> None:
    fields, reason = REFUSED[model_type]
    with pytest.raises(ModelError, match=f"'{model_type}' cannot run here: .*{reason}"):
        choose_impl(AutoConfig.for_model(model_type, **fields), "auto")


def test_layers_with_another_state_than_keys_and_values_are_refused() -> None:
    config = AutoConfig.for_model("gemma2")
    config.layer_types = ["linear_attention", "full_attention"]
    with pytest.raises(ModelError, match="layers of type 'linear_attention' need more than a cache of keys and values"):
        choose_impl(config, "auto")


def test_the_implementation_is_chosen_with_a_reason() -> None:
    llama, gemma2 = AutoConfig.for_model("llama"), AutoConfig.for_model("gemma2")
    assert choose_impl(llama, "auto")[0] == "native"
    assert choose_impl(llama, "transformers") == ("transformers", "chosen by the settings")
    assert choose_impl(gemma2, "auto") == (
        "transformers",
        "model type 'gemma2' is not one of llama, mistral, ministral3, qwen2, qwen3",
    )
    with pytest.raises(ModelError, match=r"model_impl = 'native' cannot run this model: .*'gemma2'.*choose 'auto'"):
        choose_impl(gemma2, "native")


def test_what_a_model_asks_of_its_attention_is_read_from_its_configuration() -> None:
    llama = attention_need(AutoConfig.for_model("llama"), torch.device("cpu"), torch.float32, 16)
    gemma2 = attention_need(AutoConfig.for_model("gemma2"), torch.device("cpu"), torch.bfloat16, 32)
    assert (llama.head_dim, llama.softcap, llama.block_size) == (128, False, 16)
    assert (gemma2.head_dim, gemma2.softcap, gemma2.dtype) == (256, True, torch.bfloat16)
