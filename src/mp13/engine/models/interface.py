"""What the runner expects of a model, whoever implements it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch

from mp13.engine.linear.adapted_linear import AdaptedLinear

ReadTensor = Callable[[str], torch.Tensor]  # a checkpoint tensor by name, in the model's dtype and on its device


@dataclass(frozen=True)
class CacheShape:
    """What one token leaves in the KV cache, in every layer."""

    num_layers: int
    num_kv_heads: int
    head_dim: int


@dataclass(frozen=True)
class AdapterTarget:
    """Where an adapter's module really lives: part number `part` of a packed linear."""

    linear: AdaptedLinear
    part: int


class CausalModel(Protocol):
    """A causal language model over our paged cache.

    `targets` maps the module paths that PEFT uses, such as `model.layers.0.self_attn.q_proj`, to our linears.
    """

    cache_shape: CacheShape
    targets: dict[str, AdapterTarget]

    def __call__(self, input_ids: torch.Tensor, positions: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """One packed step.

        Args:
            input_ids, positions: (T,) int64, all sequences' new tokens and their places within their sequence.
            rows: (R,) int64, the tokens whose logits are wanted.

        Returns logits (R, vocab_size).
        """
        ...
