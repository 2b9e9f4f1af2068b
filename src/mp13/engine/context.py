"""What every layer needs to know about the running step. The runner owns one, fills it before each step, and every
attention and linear module holds a reference; nothing is global."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from mp13.engine.attention.documents import Documents
from mp13.engine.attention.metadata import AttentionMetadata
from mp13.engine.linear.lora_batch import LoraBatch
from mp13.engine.linear.trained_linear import Dropout, TrainedLinear


@dataclass(frozen=True)
class TrainingPass:
    """A pass over whole texts, without a cache. `linears` are those that an adapter in training changes; what is in
    slots plays no part."""

    documents: Documents
    linears: Mapping[nn.Module, TrainedLinear]
    dropout: Dropout | None = None


@dataclass
class StepContext:
    """`k_cache` and `v_cache` hold one tensor a layer: (num_blocks, block_size, num_kv_heads, head_dim).

    While `training` is there, it is a training pass that runs, and the rest is not looked at.
    """

    k_cache: tuple[torch.Tensor, ...] = ()
    v_cache: tuple[torch.Tensor, ...] = ()
    attention: AttentionMetadata | None = None
    lora: LoraBatch | None = None
    training: TrainingPass | None = None
