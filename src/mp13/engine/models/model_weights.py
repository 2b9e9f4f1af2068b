"""What a model is built of, out of a checkpoint's tensors: vectors, linears, embedding and head, kept as they are read.

quantized_weights has the same for few bits, so that a model need not know which of the two it is given.
"""

import torch
from torch import nn
from torch.nn import functional as F

from mp13.engine.context import StepContext
from mp13.engine.linear.adapted_linear import AdaptedLinear
from mp13.engine.linear.base_weight import base_weight
from mp13.engine.models.interface import ReadTensor


class ModelWeights:
    """Modules are named as in the checkpoint, without ".weight".

    Args:
        read: gives a checkpoint tensor by its name.
        dtype: of the activations and the KV cache.
    """

    def __init__(self, read: ReadTensor, dtype: torch.dtype, device: torch.device) -> None:
        self.dtype, self.device = dtype, device
        self._read = read
        self._embeddings: dict[str, torch.Tensor] = {}  # by name, for a head that is tied to one

    def tensor(self, name: str) -> torch.Tensor:
        return self._read(name).to(self.device)

    def vector(self, name: str) -> torch.Tensor:
        """A norm or a bias, which acts on the activations and so has their dtype."""
        return _own(self.tensor(name).to(self.dtype))

    def linear(self, names: list[str], has_bias: bool, context: StepContext) -> AdaptedLinear:
        """One linear whose rows are those of several checkpoint linears with the same input, in order."""
        weights = [self.tensor(f"{name}.weight") for name in names]
        parts = {name: weight.shape[0] for name, weight in zip(names, weights, strict=True)}
        return AdaptedLinear(base_weight(torch.cat(weights), self._bias(names, has_bias)), context, parts)

    def embedding(self, name: str) -> nn.Module:
        self._embeddings[name] = weight = _own(self.tensor(f"{name}.weight"))  # (vocab_size, hidden_size)
        return DenseEmbedding(weight)

    def head(
        self, name: str, tied_to: str | None, has_bias: bool, context: StepContext, *, of_rows: bool
    ) -> AdaptedLinear:
        """The linear `name` that makes logits; `tied_to` is the embedding whose weight it shares, if it does."""
        weight = _own(self.tensor(f"{name}.weight")) if tied_to is None else self._embeddings[tied_to]
        base = base_weight(weight, self._bias([name], has_bias))
        return AdaptedLinear(base, context, {name: weight.shape[0]}, of_rows=of_rows)

    def _bias(self, names: list[str], has_bias: bool) -> torch.Tensor | None:
        return torch.cat([self.vector(f"{name}.bias") for name in names]) if has_bias else None


def _own(tensor: torch.Tensor) -> torch.Tensor:
    """On the CPU a tensor that was read is a place in its file, all of which would stay in memory with it, and be
    pulled away from under it where somebody writes the file anew."""
    return tensor.clone() if tensor.device.type == "cpu" else tensor


class DenseEmbedding(nn.Module):
    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """input_ids: (...) int64 -> (..., hidden_size)"""
        return F.embedding(input_ids, self.weight)
