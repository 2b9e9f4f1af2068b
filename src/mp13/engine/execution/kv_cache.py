"""The KV cache's memory: how many blocks fit, and the tensors themselves. Who owns a block, the block pool knows."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy
import psutil
import torch

from mp13.engine.config import EngineConfig
from mp13.engine.models.interface import CacheShape
from mp13.errors import ConfigError

_CPU_DEFAULT = 2 * 2**30  # bytes; a laptop has other things to remember


@dataclass(frozen=True)
class KVCache:
    """`keys` and `values` are (num_layers, num_blocks, block_size, num_kv_heads, head_dim)."""

    keys: torch.Tensor
    values: torch.Tensor

    def clear(self, blocks: list[int]) -> None:
        """Zero blocks that begin to fill. Attention masks the slots behind a sequence's end, but a NaN that an answer
        gone wrong left there would come through any mask."""
        index = torch.tensor(blocks, device=self.keys.device)
        self.keys.index_fill_(1, index, 0)
        self.values.index_fill_(1, index, 0)


def allocate_kv_cache(
    shape: CacheShape, num_blocks: int, block_size: int, dtype: torch.dtype, device: torch.device
) -> KVCache:
    """Raises ConfigError when the device has not so much memory."""
    size = (shape.num_layers, num_blocks, block_size, shape.num_kv_heads, shape.head_dim)
    try:
        return KVCache(*(_zeros(size, dtype, device) for _ in range(2)))
    except (MemoryError, RuntimeError, ValueError, OverflowError):  # torch's and NumPy's ways to say so
        wanted = num_blocks * block_bytes(shape, block_size, dtype)
        raise ConfigError(f"{device} has no room for a KV cache of {wanted:,} bytes; lower kv_cache_memory") from None


def _zeros(size: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """On the CPU through NumPy, which takes zero pages that cost nothing until they are written; torch fills them."""
    if device.type != "cpu":
        return torch.zeros(size, dtype=dtype, device=device)
    content = numpy.zeros(math.prod(size) * dtype.itemsize, dtype=numpy.uint8)
    return torch.from_numpy(content).view(dtype).view(size)


def block_bytes(shape: CacheShape, block_size: int, dtype: torch.dtype) -> int:
    """Bytes of one block over all layers, keys and values."""
    return 2 * shape.num_layers * block_size * shape.num_kv_heads * shape.head_dim * dtype.itemsize


def default_cache_bytes(device: torch.device, gpu_memory_utilization: float, activation_bytes: int) -> int:
    """What may be spent on the cache when nobody says: on a GPU the rest of its share, else at most 2 GiB."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        reusable = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(total * gpu_memory_utilization) - (total - free - reusable) - activation_bytes
    return min(_CPU_DEFAULT, psutil.virtual_memory().available // 4)


def size_cache(
    config: EngineConfig,
    shape: CacheShape,
    dtype: torch.dtype,
    device: torch.device,
    max_position: int,
    measure_activation_bytes: Callable[[int, int], int],
) -> tuple[int, int]:
    """Number of blocks, and the longest sequence.

    Args:
        max_position: the longest sequence that the model was made for.
        measure_activation_bytes: what a step of so many tokens and sequences needs beside the cache; called where the
            configuration names no size.

    Raises:
        ConfigError: the configured length does not fit the model or the memory.
    """
    per_block = block_bytes(shape, config.block_size, dtype)
    longest = min(config.max_model_len or max_position, max_position)
    if config.max_model_len and config.max_model_len > max_position:
        raise ConfigError(
            f"max_model_len = {config.max_model_len} is over the {max_position} tokens this model was made "
            "for; lower it, or leave it out"
        )
    wanted = config.max_num_seqs * -(-longest // config.block_size)
    available = config.kv_cache_bytes
    if available is None:
        activation_bytes = measure_activation_bytes(config.max_num_batched_tokens, config.max_num_seqs)
        available = default_cache_bytes(device, config.gpu_memory_utilization, activation_bytes)
        num_blocks = min(wanted, available // per_block)
    else:
        num_blocks = available // per_block
    fits = num_blocks * config.block_size
    if fits < 2 or (config.max_model_len and fits < config.max_model_len):
        raise ConfigError(
            f"the KV cache of {max(0, available):,} bytes holds {max(0, fits)} tokens, fewer than "
            f"max_model_len = {config.max_model_len or 2}; raise kv_cache_memory or lower max_model_len"
        )
    return num_blocks, min(longest, fits)
