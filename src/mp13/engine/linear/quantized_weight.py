"""A base weight in few bits. Multiplied with, it is dequantized each time, or torch's int4 product reads it as it is.

What is kept between calls is the codes, scales and zeros alone.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import nn
from torch.nn import functional as F

from mp13.engine.linear.base_weight import BaseWeight
from mp13.engine.linear.quantized_tensor import QuantizedTensor, row_pieces
from mp13.engine.quantization import UNPACKED


class QuantizedWeight(BaseWeight):
    """The rows of several quantized matrices, in order. `dtype` is the model's, and of scales and zeros."""

    few_rows = 0  # up to how many rows of x there is a product that needs no dequantizing

    def __init__(self, tensors: Sequence[QuantizedTensor], bias: torch.Tensor | None) -> None:
        first = tensors[0]
        shape = torch.Size((sum(tensor.shape[0] for tensor in tensors), first.shape[1]))
        super().__init__(shape, first.scale.device, first.scale.dtype)
        self.bits = first.bits
        # Beside float32 an adapter is exact, too; otherwise its packed products are faster on a CPU.
        self.is_packed = self.device.type == "cpu" and first.scale.dtype != torch.float32
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)

    @property
    def num_bytes(self) -> int:
        """What is kept between calls, without the bias."""
        raise NotImplementedError

    def product(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.numel() // x.shape[-1]
        if 0 < rows <= self.few_rows:
            y = self.few(x.reshape(rows, -1).contiguous()).view(*x.shape[:-1], -1)
            return y if self.bias is None else y.add_(self.bias)
        return self.many(x)

    def many(self, x: torch.Tensor) -> torch.Tensor:
        """x Wᵀ + b by dequantizing, piece by piece: a head's weight is gigabytes when it is dequantized.

        x: (..., in_features)
        """
        y = x.new_empty(*x.shape[:-1], self.shape[0])
        start = 0
        for w in self.pieces(x.dtype):
            y[..., start : start + len(w)] = F.linear(x, w)
            start += len(w)
            del w  # before the next is made
        return y if self.bias is None else y.add_(self.bias)

    def grad_input(self, grad: torch.Tensor) -> torch.Tensor:
        """W is dequantized again, piece by piece; the pieces' products are added up in float32."""
        total, start = grad.new_zeros(()), 0
        for w in self.pieces(grad.dtype):
            product = grad[..., start : start + len(w)] @ w
            total = product if start == 0 else total.float().add_(product)
            start += len(w)
            del w, product  # before the next is made
        return total.to(grad.dtype)

    def few(self, x: torch.Tensor) -> torch.Tensor:
        """x Wᵀ by the kernel. x: (R, in_features), R at most `few_rows`"""
        raise NotImplementedError

    def pieces(self, dtype: torch.dtype) -> Iterator[torch.Tensor]:
        """W's rows in order, dequantized, of at most `UNPACKED` numbers at a time where they can be cut."""
        raise NotImplementedError

    def dense(self, dtype: torch.dtype) -> torch.Tensor:
        """W, computed in `dtype`."""
        w = torch.empty(self.shape, dtype=dtype, device=self.device)
        start = 0
        for piece in self.pieces(dtype):
            w[start : start + len(piece)] = piece
            start += len(piece)
            del piece
        return w

    def rows(self, start: int, stop: int) -> torch.Tensor:
        return self.dense(torch.float32)[start:stop]


class DequantizedWeight(QuantizedWeight):
    """For every width, axis and device: dequantized before each product, which saves memory and no time."""

    def __init__(self, tensors: Sequence[QuantizedTensor], bias: torch.Tensor | None) -> None:
        super().__init__(tensors, bias)
        self._tensors = tuple(tensors)

    @property
    def num_bytes(self) -> int:
        return sum(tensor.num_bytes for tensor in self._tensors)

    def pieces(self, dtype: torch.dtype) -> Iterator[torch.Tensor]:
        """With axis 0, where every row has a part of all groups, each tensor is whole."""
        for tensor in self._tensors:
            if tensor.axis == 0:
                yield tensor.dense(dtype)
                continue
            for rows in row_pieces((tensor.shape[0], tensor.shape[1]), 1, UNPACKED):
                yield tensor.between(rows, dtype)


class QuantizedEmbedding(nn.Module):
    """Token embeddings that are dequantized as they are looked up."""

    def __init__(self, tensor: QuantizedTensor, dtype: torch.dtype) -> None:
        super().__init__()
        self.tensor, self._dtype = tensor, dtype

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """input_ids: (...) int64 -> (..., hidden_size)"""
        rows = self.tensor.rows(input_ids.reshape(-1), self._dtype)
        return rows.view(*input_ids.shape, -1)
