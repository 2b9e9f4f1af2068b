"""What is asked of an engine that is to train beside its answers. Plain data, no torch."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mp13.engine.training.sample import Sample


@dataclass(frozen=True)
class TrainingJob:
    """
    Args:
        settings: of `TrainConfig`, by name; what is left out is suggested by model and data, or the resumed run's own.
        eval_samples: held out; None leaves it to the setting `eval_split`.
        publish_every: steps between two versions `name@step`; None is as often as it is saved.
    """

    name: str
    output: Path
    samples: Sequence[Sample]
    eval_samples: Sequence[Sample] | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    publish_every: int | None = None
    resume: bool = False
