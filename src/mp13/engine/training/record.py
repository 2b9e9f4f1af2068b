"""What is known of a run at one of its steps, as JSON: how it is trained, on what, and how it went so far.

With the adapter and the optimizer's numbers beside it, it is all that a run needs to go on: order of the data, learning
rate and dropout follow from settings and step. No torch: the library lists runs.
"""

import json
import platform
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mp13
from mp13.engine.training.config import TrainConfig
from mp13.errors import Mp13Error, TrainingError

RECORD_FILE = "training.json"
_FORMAT = 1


@dataclass(frozen=True)
class Origin:
    """What is trained upon. `base_digest` is models/digest's, `template_digest` text/chat_template's."""

    model: str
    base_digest: str
    template_digest: str


@dataclass
class RunRecord:
    """`losses` are (step, loss, learning rate) of every step, `evals` (step, loss). `from_step` is that of the adapter
    beside it, once the run is done: the best, or the last."""

    config: TrainConfig
    origin: Origin
    data_digest: str
    total_steps: int
    num_parameters: int
    step: int = 0
    from_step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    losses: list[tuple[int, float, float]] = field(default_factory=list)
    evals: list[tuple[int, float]] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def best(self) -> tuple[int, float] | None:
        """Step and loss of the best evaluation; of equal ones the first."""
        return min(self.evals, key=lambda one: one[1], default=None)

    @property
    def evals_since_best(self) -> int:
        best = self.best
        return sum(1 for step, _ in self.evals if best and step > best[0])

    def to_json(self) -> str:
        shown = {"format": _FORMAT, **asdict(self), "config": self.config.to_json(), "versions": versions()}
        return json.dumps(shown, indent=1) + "\n"

    @classmethod
    def read(cls, folder: Path) -> "RunRecord":
        """Raises TrainingError."""
        path = folder / RECORD_FILE
        try:
            values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            if (form := values.pop("format")) != _FORMAT:
                raise TrainingError(f"{path} has format {form!r}, and this version reads {_FORMAT}; train anew")
            values["config"] = TrainConfig.from_json(values["config"])
            values["origin"] = Origin(**values["origin"])
            for curve in ("losses", "evals"):
                values[curve] = [tuple(point) for point in values[curve]]
            return cls(**{name: values[name] for name in (one.name for one in fields(cls))})
        except TrainingError:
            raise
        except (OSError, ValueError, KeyError, TypeError, AttributeError, Mp13Error) as error:
            raise TrainingError(f"{path} cannot be read ({error!s:.200}); go on from another checkpoint") from None


def versions() -> dict[str, str]:
    """Of what computes."""
    found = {name: version(name) for name in ("torch", "transformers", "peft", "safetensors")}
    return {"mp13": mp13.__version__, "python": platform.python_version(), **found}
