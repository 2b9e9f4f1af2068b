"""Shares a device's memory out: weights are there already, room for adapters and the work of a step is kept, and the KV
cache gets the rest. On the CPU, where nothing counts what a step takes, that is computed from the model's shape.
"""

from dataclasses import replace
from functools import cache

import torch

from mp13.engine.config import EngineConfig
from mp13.engine.execution.cache_size import DEFAULT_ON_CPU, Room, require_step, size_cache
from mp13.engine.execution.kv_cache import allocate_kv_cache, block_bytes
from mp13.engine.execution.model_runner import ModelRunner
from mp13.engine.execution.step_cost import StepCost, measure_step_cost
from mp13.engine.main_memory import available_memory
from mp13.engine.models.footprint import weight_format
from mp13.engine.models.loader import LoadedModel
from mp13.engine.models.room import free_memory, room_for


def give_cache(config: EngineConfig, loaded: LoadedModel, runner: ModelRunner, adapter_bytes: int) -> tuple[int, int]:
    """Give the runner its KV cache; returns its number of blocks, and the longest sequence.
    `adapter_bytes` are kept for adapters.

    Raises:
        ConfigError: the settings do not fit the memory.
    """
    shape, dtype, size = loaded.model.cache_shape, loaded.activation_dtype, config.block_size
    room = cache_room(config, loaded, runner, adapter_bytes)
    num_blocks, longest = size_cache(config, block_bytes(shape, size, dtype), loaded.max_position, room)
    runner.use_cache(allocate_kv_cache(shape, num_blocks, size, dtype, loaded.device))
    return num_blocks, longest


def cache_room(config: EngineConfig, loaded: LoadedModel, runner: ModelRunner, adapter_bytes: int) -> Room:
    """What the KV cache may take, with `adapter_bytes` kept for adapters.

    Raises:
        ConfigError: not even a step of `max_num_batched_tokens` fits.
    """
    device, name = loaded.device, str(loaded.device)
    left = room_for(device, config.gpu_memory_utilization) - adapter_bytes
    longest = min(config.max_model_len or loaded.max_position, loaded.max_position)
    if device.type == "cuda":
        cost_of = cache(lambda tokens: _measured(config, loaded, runner, tokens, longest))
        default = None
    else:
        cost_of = cache(lambda tokens: _computed(config, loaded, min(tokens, longest)))
        default = min(DEFAULT_ON_CPU, available_memory() // 4)
    cost = require_step(config, name, left, cost_of)
    return Room(name, left, cost.at, default)


def _measured(
    config: EngineConfig, loaded: LoadedModel, runner: ModelRunner, num_tokens: int, longest: int
) -> StepCost | None:
    """None where a step of so many tokens does not run."""
    limits = replace(config, max_num_batched_tokens=num_tokens)
    try:
        return measure_step_cost(runner.measure_step_bytes, limits, longest, loaded.vocab_size)
    except torch.OutOfMemoryError:
        return None
    finally:
        free_memory()


def _computed(config: EngineConfig, loaded: LoadedModel, num_tokens: int) -> StepCost:
    form = weight_format(loaded.quantization, loaded.dtype.itemsize)
    whole = loaded.shape.activation_bytes(num_tokens, loaded.activation_dtype.itemsize, form)
    return StepCost(whole)
