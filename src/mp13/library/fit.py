"""Says what a model would take of a machine's memory, and how long a context fits, before anything is loaded.

It shares the memory out as the engine does, with the arithmetic in place of measured steps; attention is taken to work
in place, as it does on a GPU. No torch.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mp13.engine.config import QUANTIZATION_NAMES, EngineConfig
from mp13.engine.execution.cache_size import DEFAULT_ON_CPU, Room, share_cache
from mp13.engine.models.footprint import (
    SLACK,
    ModelShape,
    WeightFormat,
    model_shape,
    saved_quantization,
    weight_format,
)
from mp13.engine.models.model_files import gguf_file, tensor_shapes, weight_bytes
from mp13.engine.quantization import Quantization, parse_quantization
from mp13.errors import ConfigError, ModelError

_COPIES_ON_CPU = 3  # of an adapter
_ITEMSIZE = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class Fit:
    """Sizes in bytes, lengths in tokens. `longest` is the longest conversation that fits, 0 where nothing does; the
    cache holds `cache_tokens` of all answers together. `wanted_cache` is what a conversation of the length that the
    settings ask for needs of it, `most_cache` the most that it may take."""

    weights: int
    adapters: int
    activations: int
    cache: int
    cache_tokens: int
    longest: int
    wanted_cache: int
    most_cache: int

    def holds(self, num_tokens: int | None) -> bool:
        """Whether a conversation of so many tokens fits, or any where that is None."""
        return self.longest >= (num_tokens or 2)

    @property
    def beside_cache(self) -> int:
        return self.weights + self.adapters + self.activations

    @property
    def total(self) -> int:
        return self.beside_cache + self.cache


@dataclass(frozen=True)
class SavedModel:
    """What a model's files say. `itemsize` is the bytes of one of its numbers, as its configuration names them; `saved`
    how they are quantized already."""

    shape: ModelShape
    itemsize: int
    saved: str | None


def estimate_fit(
    shape: ModelShape,
    config: EngineConfig,
    form: WeightFormat,
    memory: int,
    *,
    on_gpu: bool,
    cpu_itemsize: int = 4,
) -> Fit:
    """What an engine with `config` takes of `memory` bytes, its weights kept in `form`.

    On the CPU activations and cache of 16 bits take `cpu_itemsize` bytes a number: 4 without bfloat16 instructions.
    Adapters lie there three times: each by itself, and side by side with those of a step in one way for few tokens and
    in another for many.
    """
    itemsize = form.itemsize if on_gpu else max(form.itemsize, cpu_itemsize)
    tokens = min(config.max_num_batched_tokens, config.max_model_len or shape.max_position)
    weights = shape.weight_bytes(form) + (0 if on_gpu else shape.packed_head_bytes(form))
    activations = shape.activation_bytes(tokens, itemsize, form)
    adapters = shape.adapter_bytes(config.max_loras, config.max_lora_rank, itemsize) * (1 if on_gpu else _COPIES_ON_CPU)
    share = memory * config.gpu_memory_utilization * (1 - SLACK) if on_gpu else memory
    default = None if on_gpu else min(DEFAULT_ON_CPU, memory // 4)
    room = Room("", int(share) - weights - adapters, lambda length: activations, default)
    block_bytes = shape.token_bytes(itemsize) * config.block_size
    num_blocks, longest = share_cache(config, block_bytes, shape.max_position, room)
    limit = config.kv_cache_bytes or default
    left = max(0, room.left - activations)
    return Fit(
        weights, adapters, activations, num_blocks * block_bytes, num_blocks * config.block_size, longest,
        wanted_cache=-(-(config.max_model_len or 2) // config.block_size) * block_bytes,
        most_cache=left if limit is None else min(left, limit),
    )  # fmt: skip


def fits_by_quantization(
    model: Path,
    config: EngineConfig,
    memory: int,
    *,
    on_gpu: bool,
    cpu_itemsize: int = 4,
    quantization: str | None = None,
) -> dict[str, Fit]:
    """How `model`, a folder or GGUF file, fits `memory` bytes under the settings `config`: with `quantization` alone,
    else with each of the usual ones; a model that is saved quantized is taken as it is, under that name.

    Raises:
        ModelError: as `read_model`.
        ConfigError: there is no such quantization, or the model is saved in another.
    """
    found = read_model(model)
    asked = None if quantization is None else parse_quantization(quantization)  # "none" is as it was saved
    if found.saved is not None and asked is not None and not _is_saved_so(asked, found.saved):
        raise ConfigError(
            f"--quantization {quantization} cannot be used: {model} is already quantized, as {found.saved!r}; leave it "
            "out, or give a model in full"
        )
    names = quantizations_of(found) if quantization is None or found.saved is not None else (quantization,)
    return {name: fit_of(found, config, name, memory, on_gpu=on_gpu, cpu_itemsize=cpu_itemsize) for name in names}


def quantizations_of(found: SavedModel) -> tuple[str, ...]:
    """Those that make a difference to it: the usual ones, but only its own where it is saved quantized."""
    return QUANTIZATION_NAMES if found.saved is None else (found.saved,)


def fit_of(
    found: SavedModel, config: EngineConfig, quantization: str, memory: int, *, on_gpu: bool, cpu_itemsize: int = 4
) -> Fit:
    """As `estimate_fit`, for a model under one of its quantizations. Raises ConfigError when there is none such."""
    itemsize = _ITEMSIZE.get(config.dtype, found.itemsize)
    form = weight_format("none" if found.shape.packed_bytes is not None else quantization, itemsize)
    return estimate_fit(found.shape, config, form, memory, on_gpu=on_gpu, cpu_itemsize=cpu_itemsize)


def _is_saved_so(asked: Quantization, saved: str) -> bool:
    """Whether a model saved in one of our ways was saved as asked."""
    own = parse_quantization(saved) if saved.startswith("hqq-") else None
    return (
        own is not None and replace(asked, group_size=asked.group_size or own.group_size).of_weights == own.of_weights
    )


def read_model(model: Path) -> SavedModel:
    """Without weights in a folder, its config.json alone is taken, for a Llama layout.

    Raises:
        ModelError: a file is missing, damaged or a GGUF that cannot run here, or does not say how large the model is.
    """
    if (path := gguf_file(model)) is not None:
        from mp13.engine.models.gguf_config import gguf_shapes  # load numpy, which few need
        from mp13.engine.models.gguf_file import GGUFFile
        from mp13.engine.models.gguf_folder import read_settings

        file = GGUFFile(path)
        config = read_settings(file).config
        return SavedModel(model_shape(config, gguf_shapes(file)), itemsize_of(config), None)
    config = _config(model)
    if any(model.glob("*.safetensors")) or (model / "model.safetensors.index.json").is_file():
        shape = model_shape(config, tensor_shapes(model), weight_bytes(model))
    else:
        shape = model_shape(config)
    return SavedModel(shape, itemsize_of(config), saved_quantization(config))


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} cannot be read ({error}); fetch the model again") from None
    if not isinstance(config, dict):
        raise ModelError(f"{path} is no configuration; fetch the model again")
    return config


def itemsize_of(config: Mapping[str, Any]) -> int:
    """Bytes of a number in the type that a config.json names."""
    inner = config.get("text_config")
    for table in (config, inner if isinstance(inner, Mapping) else {}):
        if dtype := table.get("dtype") or table.get("torch_dtype"):
            return _ITEMSIZE.get(str(dtype), 4)
    return 4
