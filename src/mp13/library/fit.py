"""Says what a model would take of a machine's memory, and how long a context fits, before anything is loaded.

It shares the memory out as the engine does, with the arithmetic in place of measured steps; attention is taken to work
in place, as it does on a GPU. No torch.
"""

import json
from collections.abc import Mapping, Sequence
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
) -> Fit:
    """What an engine with `config` takes of `memory` bytes, its weights kept in `form`. On the CPU activations and
    cache are float32, as they are without bfloat16 instructions.
    """
    itemsize = form.itemsize if on_gpu else 4
    tokens = min(config.max_num_batched_tokens, config.max_model_len or shape.max_position)
    weights, activations = shape.weight_bytes(form), shape.activation_bytes(tokens, itemsize, form)
    adapters = shape.adapter_bytes(config.max_loras, config.max_lora_rank, itemsize)
    share = memory * config.gpu_memory_utilization * (1 - SLACK) if on_gpu else memory
    default = None if on_gpu else min(DEFAULT_ON_CPU, memory // 4)
    room = Room("", int(share) - weights - adapters, lambda length: activations, default)
    block_bytes = shape.token_bytes(itemsize) * config.block_size
    num_blocks, longest = share_cache(config, block_bytes, shape.max_position, room)
    return Fit(weights, adapters, activations, num_blocks * block_bytes, num_blocks * config.block_size, longest)


def fits_by_quantization(
    model: Path, config: EngineConfig, memory: int, *, on_gpu: bool, quantization: str | None = None
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
    if found.saved is not None:
        names: Sequence[str] = (found.saved,)
    else:
        names = QUANTIZATION_NAMES if quantization is None else (quantization,)
    itemsize = _ITEMSIZE.get(config.dtype, found.itemsize)
    fits = {}
    for name in names:
        form = weight_format("none" if found.shape.packed_bytes is not None else name, itemsize)
        fits[name] = estimate_fit(found.shape, config, form, memory, on_gpu=on_gpu)
    return fits


def _is_saved_so(asked: Quantization, saved: str) -> bool:
    """Whether a model saved in one of our ways was saved as asked."""
    own = parse_quantization(saved) if saved.startswith("hqq-") else None
    return (
        own is not None and replace(asked, group_size=asked.group_size or own.group_size).of_weights == own.of_weights
    )


@dataclass(frozen=True)
class SavedModel:
    """What a model's files say. `itemsize` is the bytes of one of its numbers, as its configuration names them; `saved`
    how they are quantized already."""

    shape: ModelShape
    itemsize: int
    saved: str | None


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
        return SavedModel(model_shape(config, gguf_shapes(file)), _itemsize(config), None)
    config = _config(model)
    if any(model.glob("*.safetensors")) or (model / "model.safetensors.index.json").is_file():
        shape = model_shape(config, tensor_shapes(model), weight_bytes(model))
    else:
        shape = model_shape(config)
    return SavedModel(shape, _itemsize(config), saved_quantization(config))


def _config(folder: Path) -> dict[str, Any]:
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
