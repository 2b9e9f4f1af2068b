"""The KV cache's memory: how many blocks fit, and the tensors themselves. Who owns a block is the block pool's business."""

from dataclasses import dataclass

import psutil
import torch

from mp13.engine.models.interface import CacheShape

_CPU_DEFAULT = 2 * 2**30  # bytes; a laptop has other things to remember


@dataclass(frozen=True)
class KVCache:
    """One tensor a layer, (num_blocks, block_size, num_kv_heads, head_dim) each."""

    k: tuple[torch.Tensor, ...]
    v: tuple[torch.Tensor, ...]


def allocate_kv_cache(
    shape: CacheShape, num_blocks: int, block_size: int, dtype: torch.dtype, device: torch.device
) -> KVCache:
    size = (shape.num_layers, num_blocks, block_size, shape.num_kv_heads, shape.head_dim)
    k, v = (torch.zeros(size, dtype=dtype, device=device) for _ in range(2))
    return KVCache(k.unbind(), v.unbind())


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
