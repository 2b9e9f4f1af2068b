"""What every layer needs to know about the running step. The runner owns one, fills it before each step, and every
attention and linear module holds a reference; nothing is global."""

from dataclasses import dataclass

import torch

from mp13.engine.attention.metadata import AttentionMetadata
from mp13.engine.linear.lora_batch import LoraBatch


@dataclass
class StepContext:
    """`k_cache` and `v_cache` hold one tensor a layer: (num_blocks, block_size, num_kv_heads, head_dim)."""

    k_cache: tuple[torch.Tensor, ...] = ()
    v_cache: tuple[torch.Tensor, ...] = ()
    attention: AttentionMetadata | None = None
    lora: LoraBatch | None = None
