"""Says what a model would take of a machine's memory, and how long a context fits, before anything is loaded.

It shares the memory out as the engine does, with the arithmetic in place of measured steps; attention is taken to work
in place, as it does on a GPU. No torch.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mp13.engine.config import QUANTIZATION_NAMES, EngineConfig
from mp13.engine.execution.cache_size import DEFAULT_ON_CPU, Room, share_cache
from mp13.engine.models.footprint import (
    PLAUSIBLE_RANK,
    SLACK,
    ModelShape,
    WeightFormat,
    model_shape,
    stored_quantization,
    weight_format,
)
from mp13.engine.models.gguf_config import model_config
from mp13.engine.models.gguf_file import GGUFFile
from mp13.engine.models.model_files import tensor_shapes
from mp13.errors import ModelError

_ITEMSIZE = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class Fit:
    """Sizes in bytes, lengths in tokens. `longest` is the longest conversation that fits, 0 where nothing does; the
    cache holds `cache_tokens` of all answers together."""

    weights: int
    adapters: int
    activations: int
    cache: int
    cache_tokens: int
    longest: int

    def holds(self, num_tokens: int | None) -> bool:
        """Whether a conversation of so many tokens fits, or any where that is None."""
        return self.longest >= (num_tokens or 2)

    @property
    def total(self) -> int:
        return self.weights + self.adapters + self.activations + self.cache


def estimate_fit(
    shape: ModelShape,
    config: EngineConfig,
    form: WeightFormat,
    memory: int,
    *,
    on_gpu: bool,
    rank: int = PLAUSIBLE_RANK,
) -> Fit:
    """What an engine with `config` takes of `memory` bytes, its weights kept in `form` and `max_loras` adapters of
    `rank` in its slots. On the CPU activations and cache are float32, as they are without bfloat16 instructions.
    """
    itemsize = form.itemsize if on_gpu else 4
    tokens = min(config.max_num_batched_tokens, config.max_model_len or shape.max_position)
    weights, activations = shape.weight_bytes(form), shape.activation_bytes(tokens, itemsize, form)
    adapters = config.max_loras * shape.adapter_bytes(min(rank, config.max_lora_rank), itemsize)
    share = memory * config.gpu_memory_utilization * (1 - SLACK) if on_gpu else memory
    default = None if on_gpu else min(DEFAULT_ON_CPU, memory // 4)
    room = Room("", int(share) - weights - adapters, lambda length: activations, default)
    block_bytes = shape.token_bytes(itemsize) * config.block_size
    num_blocks, longest = share_cache(config, block_bytes, shape.max_position, room)
    return Fit(weights, adapters, activations, num_blocks * block_bytes, num_blocks * config.block_size, longest)


def fits_by_quantization(
    folder: Path, config: EngineConfig, memory: int, *, on_gpu: bool, names: Sequence[str] = QUANTIZATION_NAMES
) -> dict[str, Fit]:
    """How the model in `folder` fits `memory` bytes under the settings `config`, for each quantization of `names`; for
    that alone in which it was saved, if it was.

    Raises:
        ModelError: the model's files do not say how large it is.
    """
    shape, own = read_shape(folder)
    stored = stored_quantization(_config(folder))
    names = names if stored is None else (stored,)
    itemsize = _ITEMSIZE.get(config.dtype, own)
    return {name: estimate_fit(shape, config, weight_format(name, itemsize), memory, on_gpu=on_gpu) for name in names}


def read_shape(folder: Path) -> tuple[ModelShape, int]:
    """A model's shape, and the bytes of one of its numbers as its configuration names them.

    Of a GGUF file, or a folder without weights, the configuration alone is taken, for a Llama layout.

    Raises:
        ModelError: a file is missing or damaged, or does not say how large the model is.
    """
    config = _config(folder)
    has_weights = any(folder.glob("*.safetensors")) or (folder / "model.safetensors.index.json").is_file()
    return model_shape(config, tensor_shapes(folder) if has_weights else None), _itemsize(config)


def _config(folder: Path) -> dict[str, Any]:
    if folder.is_file():
        return model_config(GGUFFile(folder))
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} cannot be read ({error}); fetch the model again") from None
    if not isinstance(config, dict):
        raise ModelError(f"{path} is no configuration; fetch the model again")
    return config


def _itemsize(config: Mapping[str, Any]) -> int:
    inner = config.get("text_config")
    for table in (config, inner if isinstance(inner, Mapping) else {}):
        if dtype := table.get("dtype") or table.get("torch_dtype"):
            return _ITEMSIZE.get(str(dtype), 4)
    return 4
