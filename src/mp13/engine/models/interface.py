"""What the runner expects of a model, whoever implements it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn

from mp13.engine.linear.adapted_linear import AdaptedLinear
from mp13.engine.linear.base_weight import BaseWeight

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

    `targets` maps the module paths that PEFT uses, such as `model.layers.0.self_attn.q_proj`, to our linears. Training
    goes from layer to layer, and takes the logits apart: `layers` are called in order by `hidden`, each with the hidden
    states first; `logits(hidden(input_ids, positions)[rows])` is the model.
    """

    cache_shape: CacheShape
    targets: dict[str, AdapterTarget]

    @property
    def layers(self) -> Iterable[nn.Module]: ...

    @property
    def head_weight(self) -> BaseWeight | None:
        """What makes the logits, where it is a linear of ours."""
        ...

    def __call__(self, input_ids: torch.Tensor, positions: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """One packed step.

        Args:
            input_ids, positions: (T,) int64, all sequences' new tokens and their places within their sequence.
            rows: (R,) int64, the tokens whose logits are wanted.

        Returns logits (R, vocab_size).
        """
        ...

    def hidden(self, input_ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """input_ids, positions: (T,) int64 -> (T, hidden_size), what `logits` takes"""
        ...

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """hidden: (R, hidden_size) -> (R, vocab_size)"""
        ...
