"""The KV cache's tensors. How many blocks fit is cache_size's; who owns a block, the block pool knows."""

import math
from dataclasses import dataclass

import numpy
import torch

from mp13.engine.models.interface import CacheShape
from mp13.engine.sizes import shown_size
from mp13.errors import ConfigError


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
        raise ConfigError(
            f"{device} has no room for a KV cache of {shown_size(wanted, up=True)}; lower kv_cache_memory"
        ) from None


def _zeros(size: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """On the CPU through NumPy, which takes zero pages that cost nothing until they are written; torch fills them."""
    if device.type != "cpu":
        return torch.zeros(size, dtype=dtype, device=device)
    content = numpy.zeros(math.prod(size) * dtype.itemsize, dtype=numpy.uint8)
    return torch.from_numpy(content).view(dtype).view(size)


def block_bytes(shape: CacheShape, block_size: int, dtype: torch.dtype) -> int:
    """Bytes of one block over all layers, keys and values."""
    return 2 * shape.num_layers * block_size * shape.num_kv_heads * shape.head_dim * dtype.itemsize
