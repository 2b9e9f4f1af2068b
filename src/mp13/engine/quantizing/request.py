"""What is asked of quantizing a model on disk, and what comes of it. Plain data, no torch: the library hands it to a
process of its own."""

from dataclasses import dataclass

from mp13.engine.quantization import parse_quantization
from mp13.errors import ConfigError


@dataclass(frozen=True)
class QuantizeRequest:
    """Write `model`, a folder or a Hub id, into the folder `out` as `quantization` says.

    `dtype` and `device` are as in EngineConfig: the dtype of what stays unquantized and of scales, and who computes.

    Raises:
        ConfigError: `quantization` is no quantization.
    """

    model: str
    quantization: str
    out: str
    dtype: str = "auto"
    device: str = "auto"
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        if (parsed := parse_quantization(self.quantization)) is None:
            raise ConfigError("quantization = 'none' leaves nothing to do; give a name such as hqq-4bit, or a table")
        object.__setattr__(self, "quantization", str(parsed))


@dataclass(frozen=True)
class QuantizeReport:
    """What was made. `quantization` is canonical and has its group size."""

    path: str
    quantization: str
    dtype: str
    size_bytes: int  # of the weights
    base_bytes: int  # of the weights it was made from
