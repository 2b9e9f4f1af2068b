"""A model's weights in few bits: quantized as each tensor is read, or read as they were saved.

Each checkpoint tensor is quantized for itself, so that every way to run a model has the same weights, and so that only
one of them is ever there in full.
"""

from collections.abc import Sequence

import torch
from torch import nn

from mp13.engine.context import StepContext
from mp13.engine.linear.adapted_linear import AdaptedLinear
from mp13.engine.linear.quantized_choice import quantized_weight
from mp13.engine.linear.quantized_tensor import QuantizedTensor, quantize
from mp13.engine.linear.quantized_weight import QuantizedEmbedding
from mp13.engine.models.interface import ReadTensor
from mp13.engine.models.model_layout import ChosenQuantization
from mp13.engine.models.model_weights import ModelWeights
from mp13.errors import ModelError


class QuantizedWeights(ModelWeights):
    """`chosen` is fitted. `read` gives tensors on the CPU, floating ones in `weight_dtype`, the model's."""

    def __init__(
        self,
        read: ReadTensor,
        dtype: torch.dtype,
        device: torch.device,
        chosen: ChosenQuantization,
        weight_dtype: torch.dtype,
    ) -> None:
        super().__init__(read, dtype, device)
        self._chosen, self._weight_dtype = chosen, weight_dtype
        self._table: QuantizedTensor | None = None  # the embeddings', for a head that is tied to them

    def linear(self, names: list[str], has_bias: bool, context: StepContext) -> AdaptedLinear:
        tensors = [self.matrix(name) for name in names]
        parts = {name: tensor.shape[0] for name, tensor in zip(names, tensors, strict=True)}
        return self._adapted(tensors, self._bias(names, has_bias), context, parts)

    def embedding(self, name: str) -> nn.Module:
        if name not in self._chosen.matrices:
            return super().embedding(name)
        self._table = self.matrix(name)
        return QuantizedEmbedding(self._table, self._weight_dtype)

    def head(
        self, name: str, tied_to: str | None, has_bias: bool, context: StepContext, *, of_rows: bool
    ) -> AdaptedLinear:
        if name in self._chosen.matrices:
            tensor = self.matrix(name, source=tied_to)
        elif tied_to is not None and self._table is not None:
            tensor = self._table
        else:
            return super().head(name, tied_to, has_bias, context, of_rows=of_rows)
        return self._adapted([tensor], self._bias([name], has_bias), context, {name: tensor.shape[0]}, of_rows=of_rows)

    def matrix(self, name: str, source: str | None = None) -> QuantizedTensor:
        """The weight of module `name`, one of those that are quantized; `source` is what a checkpoint in full calls it.

        Raises:
            ModelError: what was saved is not of the model's shape.
        """
        matrix, group_size = self._chosen.matrices[name], self._chosen.quantization.group_size
        assert group_size is not None
        if not self._chosen.is_stored:
            weight = self._read(f"{source or name}.weight")
            return quantize(weight, matrix.bits, group_size, matrix.axis, self._weight_dtype, self.device)
        packed, scale, zero = (self._read(part).to(self.device) for part in stored_names(name))
        tensor = QuantizedTensor(packed, scale, zero, matrix.bits, group_size, matrix.axis)
        if not tensor.fits(matrix.shape):
            raise ModelError(f"the saved weight of {name} does not fit config.json; quantize the model again")
        return tensor

    def _adapted(
        self,
        tensors: Sequence[QuantizedTensor],
        bias: torch.Tensor | None,
        context: StepContext,
        parts: dict[str, int],
        *,
        of_rows: bool = False,
    ) -> AdaptedLinear:
        base = quantized_weight(tensors, bias, demanded=self._chosen.quantization.kernel == "int4")
        return AdaptedLinear(base, context, parts, of_rows=of_rows)


def model_weights(
    read: ReadTensor,
    dtype: torch.dtype,
    device: torch.device,
    chosen: ChosenQuantization | None,
    weight_dtype: torch.dtype,
) -> ModelWeights:
    """The weights that `read` gives, in full or as `chosen`; `dtype` is the activations'."""
    if chosen is None:
        return ModelWeights(read, dtype, device)
    return QuantizedWeights(read, dtype, device, chosen, weight_dtype)


def stored_names(name: str) -> tuple[str, str, str]:
    """What codes, scales and zeros of module `name` are called in a saved model."""
    return f"{name}.weight_packed", f"{name}.weight_scale", f"{name}.weight_zero"
