"""Every setting of a training run, checked before anything heavy starts, and what to set them to when nobody says.

Plain data, no torch. Which modules `targets` means is adapters/module_choice's.
"""

import math
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from typing import Any

from mp13.errors import ConfigError

KINDS = ("lora", "rslora", "dora")
SCHEDULES = ("cosine", "linear", "constant")
DTYPES = ("auto", "bf16", "fp32")
LOSSES = ("assistant", "all")
_INIT = re.compile(r"default|pissa(_niter_[1-9]\d?)?", re.ASCII)
_ROWS_A_PASS = 40  # of what is suggested
_ALPHA, _RSLORA_ALPHA = 32.0, 8.0  # both scale by 2 at rank 16


@dataclass(frozen=True)
class TrainConfig:
    """How an adapter is trained. Sizes are in tokens, `every` counts optimizer steps.

    Args:
        kind: LoRA (Hu et al. 2021), rsLoRA (Kalajdzievski 2023) or DoRA (Liu et al. 2024).
        alpha: None is 32, of rsLoRA 8. With alpha kept while the rank changes, the best learning rate stays the same
            (Schulman et al. 2025, "LoRA Without Regret").
        dropout: of what goes into A. Modules that share an input (q, k and v; gate and up) share the mask.
        targets: "all-linear" (all but the head), a tuple of module names, or a regular expression of whole paths, by
            PEFT's rules.
        init: "default" is Kaiming-uniform A and B = 0; "pissa" (Meng et al. 2024) the largest singular values of each
            weight, "pissa_niter_16" the same found in 16 rounds of subspace iteration, which is much faster.
        warmup_steps: None takes `warmup_ratio` of all steps.
        batch_tokens: samples are packed into rows of at most so many tokens; a row is computed at once.
        batch_rows: computes so many samples at once instead, whatever their lengths, and packs none.
        accumulation: rows that make one optimizer step.
        max_grad_norm: gradients are scaled down to this length; None leaves them.
        dtype: of the adapter's products; "auto" is the model's own. Weights and optimizer are float32 in any case.
        gradient_checkpointing: keeps one activation a layer and computes the others again on the way back.
        steps: None is as many as `epochs` take.
        eval_split: the share of the samples that is held out, where no samples for it are given.
        patience: evaluations without a better loss after which the run stops; None is never.
        keep: how many of the last checkpoints stay, beside the best.
        loss: "assistant" learns the tokens that a row's mask names, "all" every token but the first.

    Raises:
        ConfigError: a value is out of range, or two of them do not go together.
    """

    kind: str = "lora"
    rank: int = 16
    alpha: float | None = None
    dropout: float = 0.0
    targets: str | tuple[str, ...] = "all-linear"
    init: str = "default"
    lr: float = 5e-4
    schedule: str = "cosine"
    warmup_steps: int | None = None
    warmup_ratio: float = 0.05
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0
    batch_tokens: int = 2048
    batch_rows: int | None = None
    accumulation: int = 1
    max_grad_norm: float | None = 1.0
    dtype: str = "auto"
    gradient_checkpointing: bool = False
    seed: int = 0
    steps: int | None = None
    epochs: float = 1.0
    eval_split: float = 0.0
    eval_every: int = 50
    patience: int | None = None
    save_every: int = 50
    keep: int = 2
    loss: str = "assistant"

    def __post_init__(self) -> None:
        if not isinstance(self.targets, str):
            object.__setattr__(self, "targets", tuple(self.targets))
        for name, rule in _RULES.items():
            value = getattr(self, name)
            if not (rule.fits(value) or (value is None and rule.may_be_none)):
                raise ConfigError(f"{name} = {value!r} cannot be used; give {rule.allowed}")
        if self.kind == "dora" and self.init != "default":
            raise ConfigError(
                f"kind = 'dora' with init = {self.init!r} cannot be saved for PEFT; give init = 'default'"
            )

    @property
    def scale(self) -> float:
        """What multiplies B A: alpha / rank, or alpha / √rank of rsLoRA."""
        return self.full_alpha / (math.sqrt(self.rank) if self.kind == "rslora" else self.rank)

    @property
    def full_alpha(self) -> float:
        if self.alpha is not None:
            return self.alpha
        return _RSLORA_ALPHA if self.kind == "rslora" else _ALPHA

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "TrainConfig":
        """Raises ConfigError, also for a setting that is none."""
        if unknown := sorted(values.keys() - {field.name for field in fields(cls)}):
            raise ConfigError(f"{unknown[0]!r} is no setting of a training run; remove it")
        return cls(**values)


def suggested_config(
    *,
    hidden_size: int,
    num_rows: int,
    num_tokens: int,
    num_loss_tokens: int,
    on_cpu: bool,
    longest_row: int = 0,
    **chosen: Any,
) -> TrainConfig:
    """What to train with when nobody says otherwise; `chosen` are the settings that somebody has chosen.

    * lr = 5e-4 · (2000 / hidden_size)^0.781: ten times what full training of Llama models takes best, and less the
      wider the model ("LoRA Without Regret"): 1.3e-3 for SmolLM2-135M, 4.9e-4 for a 1B, 2.9e-4 for an 8B model.
    * rank by what there is to learn: 8 up to 50 000 tokens of loss, 32 from 5 million on, 16 between.
    * three passes over up to 200 samples, two up to 1000, else one: small models soon know them by heart. Of less than
      40 samples as many more passes that there are 120 steps, at most ten.
    * rows of 512 tokens on a CPU, which larger ones only slow down, 4096 elsewhere; of little data shorter ones, so
      that a pass has 40 of them, with room for the longest sample. Of much data as many rows in a step, at most 8.
    * about ten evaluations and checkpoints a run.
    """
    settings: dict[str, Any] = {
        "lr": float(f"{5e-4 * (2000 / hidden_size) ** 0.781:.2g}"),
        "rank": 8 if num_loss_tokens <= 50_000 else 32 if num_loss_tokens >= 5_000_000 else 16,
        "epochs": _epochs(num_rows),
        "batch_tokens": max(64, longest_row, min(512 if on_cpu else 4096, num_tokens // _ROWS_A_PASS)),
        **chosen,
    }
    rows = (
        num_tokens / settings["batch_tokens"] if not settings.get("batch_rows") else num_rows / settings["batch_rows"]
    )
    settings.setdefault("accumulation", max(1, min(8, int(rows / _ROWS_A_PASS))))
    steps = settings.get("steps") or math.ceil(rows / settings["accumulation"] * settings["epochs"])
    for every in ("eval_every", "save_every"):
        settings.setdefault(every, max(1, math.ceil(steps / 10)))
    return TrainConfig(**settings)


def _epochs(num_rows: int) -> float:
    if num_rows < _ROWS_A_PASS:
        return min(10.0, math.ceil(3 * _ROWS_A_PASS / num_rows))
    return 3.0 if num_rows <= 200 else 2.0 if num_rows <= 1000 else 1.0


@dataclass(frozen=True)
class _Rule:
    fits: Callable[[Any], bool]
    allowed: str
    may_be_none: bool = False


def _number(fits: Callable[[float], bool]) -> Callable[[Any], bool]:
    return lambda x: isinstance(x, int | float) and not isinstance(x, bool) and math.isfinite(x) and fits(x)


def _whole(least: int, most: int = 1 << 62) -> Callable[[Any], bool]:
    return lambda x: isinstance(x, int) and not isinstance(x, bool) and least <= x <= most


def _one_of(known: tuple[str, ...]) -> _Rule:
    return _Rule(lambda x: x in known, f"one of {', '.join(known)}")


def _are_targets(value: Any) -> bool:
    return bool(value) and (isinstance(value, str) or all(isinstance(name, str) and name for name in value))


_COUNT = "a whole number, 1 or more"
_RULES = {
    "kind": _one_of(KINDS),
    "rank": _Rule(_whole(1, 4096), "a whole number from 1 to 4096"),
    "alpha": _Rule(_number(lambda x: x > 0), "a number above 0", may_be_none=True),
    "dropout": _Rule(_number(lambda x: 0 <= x < 1), "a number from 0 to below 1"),
    "targets": _Rule(_are_targets, "all-linear, module names, or a regular expression"),
    "init": _Rule(lambda x: isinstance(x, str) and _INIT.fullmatch(x) is not None,
                  "default, pissa or pissa_niter_N"),
    "lr": _Rule(_number(lambda x: 0 < x <= 1), "a number above 0, at most 1"),
    "schedule": _one_of(SCHEDULES),
    "warmup_steps": _Rule(_whole(0), "a whole number, 0 or more", may_be_none=True),
    "warmup_ratio": _Rule(_number(lambda x: 0 <= x <= 1), "a number from 0 to 1"),
    "beta1": _Rule(_number(lambda x: 0 <= x < 1), "a number from 0 to below 1"),
    "beta2": _Rule(_number(lambda x: 0 <= x < 1), "a number from 0 to below 1"),
    "eps": _Rule(_number(lambda x: x > 0), "a number above 0"),
    "weight_decay": _Rule(_number(lambda x: x >= 0), "a number, 0 or more"),
    "batch_tokens": _Rule(_whole(2), "a whole number, 2 or more"),
    "batch_rows": _Rule(_whole(1), _COUNT, may_be_none=True),
    "accumulation": _Rule(_whole(1), _COUNT),
    "max_grad_norm": _Rule(_number(lambda x: x > 0), "a number above 0, or none", may_be_none=True),
    "dtype": _one_of(DTYPES),
    "gradient_checkpointing": _Rule(lambda x: isinstance(x, bool), "True or False"),
    "seed": _Rule(_whole(0, 2**63 - 1), "a whole number from 0 to 2^63-1"),
    "steps": _Rule(_whole(1), _COUNT, may_be_none=True),
    "epochs": _Rule(_number(lambda x: x > 0), "a number above 0"),
    "eval_split": _Rule(_number(lambda x: 0 <= x <= 0.5), "a share from 0 to 0.5"),
    "eval_every": _Rule(_whole(1), _COUNT),
    "patience": _Rule(_whole(1), _COUNT, may_be_none=True),
    "save_every": _Rule(_whole(1), _COUNT),
    "keep": _Rule(_whole(1), _COUNT),
    "loss": _one_of(LOSSES),
}  # fmt: skip
