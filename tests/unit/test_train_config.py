"""The settings of a training run: what is refused, and what is suggested for a model and an amount of data."""

import json
import math
from typing import Any

import pytest

from mp13.engine.training.config import TrainConfig, suggested_config
from mp13.errors import ConfigError

WRONG: list[tuple[str, Any, str]] = [
    ("kind", "loha", "one of lora, rslora, dora"),
    ("rank", 0, "a whole number from 1 to 4096"),
    ("rank", True, "a whole number from 1 to 4096"),
    ("alpha", -1, "a number above 0"),
    ("dropout", 1.0, "a number from 0 to below 1"),
    ("targets", (), "all-linear, module names, or a regular expression"),
    ("targets", "", "all-linear, module names, or a regular expression"),
    ("init", "olora", "default, pissa or pissa_niter_N"),
    ("lr", 0, "a number above 0, at most 1"),
    ("lr", math.nan, "a number above 0, at most 1"),
    ("schedule", "step", "one of cosine, linear, constant"),
    ("warmup_steps", -1, "a whole number, 0 or more"),
    ("warmup_ratio", 1.5, "a number from 0 to 1"),
    ("beta1", 1.0, "a number from 0 to below 1"),
    ("eps", 0.0, "a number above 0"),
    ("weight_decay", -0.1, "a number, 0 or more"),
    ("batch_tokens", 1, "a whole number, 2 or more"),
    ("batch_rows", 0, "a whole number, 1 or more"),
    ("accumulation", 0, "a whole number, 1 or more"),
    ("max_grad_norm", 0, "a number above 0, or none"),
    ("dtype", "fp16", "one of auto, bf16, fp32"),
    ("gradient_checkpointing", 1, "True or False"),
    ("seed", -1, "a whole number from 0"),
    ("steps", 0, "a whole number, 1 or more"),
    ("epochs", math.inf, "a number above 0"),
    ("eval_split", 0.6, "a share from 0 to 0.5"),
    ("patience", 0, "a whole number, 1 or more"),
    ("save_every", 0, "a whole number, 1 or more"),
    ("loss", "user", "one of assistant, all"),
]


@pytest.mark.parametrize(("name", "value", "allowed"), WRONG, ids=lambda value: repr(value)[:20])
def test_a_wrong_value_is_named_with_what_would_do(name: str, value: Any, allowed: str) -> None:
    with pytest.raises(ConfigError) as refused:
        TrainConfig(**{name: value})
    assert str(refused.value).startswith(f"{name} = {value!r} cannot be used; give ") and allowed in str(refused.value)


def test_a_dora_cannot_begin_as_pissa() -> None:
    with pytest.raises(ConfigError, match="kind = 'dora' with init = 'pissa'"):
        TrainConfig(kind="dora", init="pissa")


def test_the_scale_of_each_kind() -> None:
    assert TrainConfig(rank=16).scale == 2 == TrainConfig(rank=16, kind="rslora").scale
    assert TrainConfig(rank=8, alpha=4).scale == 0.5 == TrainConfig(rank=8, alpha=4, kind="dora").scale
    assert TrainConfig(rank=4, alpha=6, kind="rslora").scale == 3


def test_settings_survive_json() -> None:
    config = TrainConfig(targets=["q_proj", "v_proj"], lr=1e-3, alpha=3.5, patience=2)  # type: ignore[arg-type]
    assert TrainConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


def test_a_setting_that_is_none_is_refused_in_json() -> None:
    with pytest.raises(ConfigError, match="'learning_rate' is no setting of a training run"):
        TrainConfig.from_json({"learning_rate": 1e-3})


class TestSuggested:
    def suggest(self, **changed: Any) -> TrainConfig:
        data = {"hidden_size": 576, "num_rows": 1000, "num_tokens": 100_000, "num_loss_tokens": 60_000, "on_cpu": True}
        return suggested_config(**{**data, **changed})

    def test_wider_models_learn_more_slowly(self) -> None:
        rates = [self.suggest(hidden_size=width).lr for width in (576, 2048, 4096)]
        assert rates == [1.3e-3, 4.9e-4, 2.9e-4]

    def test_more_to_learn_takes_a_higher_rank_and_fewer_passes(self) -> None:
        assert [self.suggest(num_loss_tokens=n).rank for n in (50_000, 60_000, 5_000_000)] == [8, 16, 32]
        assert [self.suggest(num_rows=n).epochs for n in (200, 1000, 1001)] == [3, 2, 1]

    def test_a_handful_of_samples_is_read_more_often(self) -> None:
        assert [self.suggest(num_rows=n).epochs for n in (5, 12, 15, 30, 40)] == [10, 10, 8, 4, 3]

    def test_a_pass_over_little_data_still_has_steps(self) -> None:
        few, many = self.suggest(num_tokens=8000), self.suggest(num_tokens=10_000_000)
        assert (few.batch_tokens, few.accumulation) == (200, 1)
        assert (many.batch_tokens, many.accumulation) == (512, 8)
        assert self.suggest(num_tokens=10_000_000, on_cpu=False).batch_tokens == 4096

    def test_a_row_has_room_for_the_longest_sample(self) -> None:
        assert self.suggest(num_tokens=300).batch_tokens == 64
        assert self.suggest(num_tokens=300, longest_row=120).batch_tokens == 120
        assert self.suggest(longest_row=3000).batch_tokens == 3000

    def test_a_run_is_looked_at_about_ten_times(self) -> None:
        config = self.suggest(steps=95)
        assert config.eval_every == config.save_every == 10

    def test_what_somebody_chose_stays(self) -> None:
        config = self.suggest(lr=1e-5, rank=3, batch_tokens=512, save_every=7)
        assert (config.lr, config.rank, config.batch_tokens, config.save_every) == (1e-5, 3, 512, 7)
