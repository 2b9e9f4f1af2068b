"""Every setting of the engine, checked before anything heavy starts. Plain data, no torch."""

import re
from dataclasses import dataclass
from typing import Any, Literal

from mp13.engine.quantization import QUANTIZATION_NAMES, parse_quantization
from mp13.engine.sizes import parse_size
from mp13.errors import ConfigError, UnsupportedError

__all__ = ["ATTENTION_NAMES", "DTYPE_NAMES", "QUANTIZATION_NAMES", "EngineConfig"]

ATTENTION_NAMES = (
    "auto", "sdpa", "flash_attention_2", "flash_attention_3", "flash_attention_4", "xformers", "triton", "reference",
)  # fmt: skip
DTYPE_NAMES = ("auto", "float32", "bfloat16", "float16")
_COUNTS = {
    "block_size": 1, "max_num_seqs": 1, "max_num_batched_tokens": 1, "max_lora_rank": 1, "tensor_parallel_size": 1,
    "max_loras": 0, "max_cpu_loras": 0, "seed": 0, "max_model_len": 2,
}  # fmt: skip
_DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d+)?", re.ASCII)


@dataclass(frozen=True)
class EngineConfig:
    """The keyword arguments of `LLM`, with their defaults. `model` is a folder, a GGUF file or a Hugging Face Hub id.

    Sizes are in tokens unless named otherwise; `kv_cache_memory` is bytes or text such as "2GiB".

    Raises:
        ConfigError: a value is out of range or not a known name.
        UnsupportedError: a known value whose feature this version does not have.
    """

    model: str
    dtype: str = "auto"
    device: str = "auto"
    model_impl: Literal["auto", "native", "transformers"] = "auto"
    attn_implementation: str = "auto"
    quantization: str | dict[str, Any] = "none"  # kept as its canonical text
    max_model_len: int | None = None
    block_size: int = 16
    kv_cache_memory: int | str | None = None
    gpu_memory_utilization: float = 0.9
    max_num_seqs: int = 16
    max_num_batched_tokens: int = 2048
    enable_prefix_caching: bool = True
    enforce_eager: bool = False
    max_loras: int = 8
    max_lora_rank: int = 64
    max_cpu_loras: int = 64
    kv_policy: Literal["exact", "keep"] = "exact"
    tensor_parallel_size: int = 1
    trust_remote_code: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "model", str(self.model))
        object.__setattr__(self, "quantization", str(parse_quantization(self.quantization) or "none"))
        self._check_names()
        for name, least in _COUNTS.items():
            value = getattr(self, name)
            valid = isinstance(value, int) and not isinstance(value, bool) and value >= least
            self._require(
                valid or (value is None and name == "max_model_len"), name, f"a whole number, {least} or more"
            )
        for name in ("enable_prefix_caching", "enforce_eager", "trust_remote_code"):
            self._require(isinstance(getattr(self, name), bool), name, "True or False")
        share = self.gpu_memory_utilization
        valid = isinstance(share, (int, float)) and 0 < share <= 1
        self._require(valid, "gpu_memory_utilization", "a share above 0, at most 1")
        self._require(self.max_cpu_loras >= self.max_loras, "max_cpu_loras", f"max_loras ({self.max_loras}) or more")
        self._require(self.seed < 2**63, "seed", "a whole number below 2^63")
        _ = self.kv_cache_bytes

    def _check_names(self) -> None:
        self._require(bool(self.model.strip()), "model", "a folder, a GGUF file or a Hugging Face Hub id")
        self._require(bool(_DEVICE.fullmatch(self.device)), "device", "auto, cpu, mps, cuda or cuda:N")
        for name, known in (
            ("dtype", DTYPE_NAMES), ("model_impl", ("auto", "native", "transformers")),
            ("attn_implementation", ATTENTION_NAMES), ("kv_policy", ("exact", "keep")),
        ):  # fmt: skip
            self._require(getattr(self, name) in known, name, f"one of {', '.join(known)}")
        if self.tensor_parallel_size != 1:
            raise UnsupportedError(
                f"tensor_parallel_size = {self.tensor_parallel_size!r} is not supported yet; choose 1"
            )

    def _require(self, valid: bool, name: str, allowed: str) -> None:
        if not valid:
            raise ConfigError(f"{name} = {getattr(self, name)!r} cannot be used; give {allowed}")

    @property
    def kv_cache_bytes(self) -> int | None:
        """`kv_cache_memory` in bytes; None leaves the choice to the engine."""
        if self.kv_cache_memory is None:
            return None
        size = parse_size(str(self.kv_cache_memory))
        self._require(size > 0, "kv_cache_memory", 'a number of bytes or a size such as "2GiB"')
        return size
