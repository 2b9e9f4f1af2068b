"""Computes a packed row through the model that is in memory: its loss, and on the way back the adapter's gradients.

Knows nothing of steps, data or disks. Other work may have the model at every boundary of a layer, on both ways.
"""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch

from mp13.engine.attention.documents import Documents
from mp13.engine.context import StepContext, TrainingPass
from mp13.engine.models.interface import CausalModel
from mp13.engine.training.adapter import TrainableAdapter
from mp13.engine.training.batch import PackedRow
from mp13.engine.training.loss import chunk_rows, sum_of_losses
from mp13.engine.training.tape import LayerTape
from mp13.errors import ModelError


@dataclass(frozen=True)
class Base:
    """The model that is trained upon, as the engine has it loaded. `dtype` is that of its activations; it `is_shared`
    where others answer with it meanwhile, and `require_parts` has passed it before."""

    model: CausalModel
    context: StepContext
    vocab_size: int
    device: torch.device
    dtype: torch.dtype
    is_shared: bool = False


class Passes:
    """
    Args:
        between: called at every boundary of a layer and of a chunk of the loss; the model is free there.

    Raises:
        ModelError: the model cannot be taken apart into layers and head.
    """

    def __init__(self, base: Base, adapter: TrainableAdapter, between: Callable[[], None] = lambda: None) -> None:
        self._base, self._adapter, self._between_layers = base, adapter, between
        config, layers = adapter.config, list(base.model.layers)
        if not base.is_shared:
            require_parts(base)
        learns = [any(module in adapter.linears for module in layer.modules()) for layer in layers]
        self._tape = LayerTape(
            layers, learns, checkpointing=config.gradient_checkpointing, starting=self._start_layer, between=self._yield
        )
        self._rows_at_once = chunk_rows(base.vocab_size, base.device, is_shared=base.is_shared)
        self._generator = torch.Generator(base.device)
        self._draw = 0  # which masks dropout draws

    def loss(self, row: PackedRow) -> torch.Tensor:
        """The sum of the losses of the row's tokens, float32, under the adapter as it is."""
        with self._training(row, dropout=False), torch.no_grad():
            with self._tape.recording(with_grad=False):
                hidden = self._base.model.hidden(row.input_ids, row.positions)
            return self._head_loss(hidden[row.loss_rows], row, None)[0]

    def backward(self, row: PackedRow, weight: float, draw: int) -> torch.Tensor:
        """The same in training, and the gradient of `weight` times it added to the adapter's. `draw` is a number that
        no other row of the run has: dropout goes by it."""
        self._draw = draw
        with self._training(row, dropout=self._adapter.config.dropout > 0):
            try:
                with self._tape.recording(with_grad=True):
                    hidden = self._base.model.hidden(row.input_ids, row.positions)[row.loss_rows]
                self._start_layer(-1)
                loss, grad = self._head_loss(hidden, row, weight)
                if hidden.requires_grad:
                    torch.autograd.backward(hidden, grad)
                    del hidden, grad
                    self._tape.backward()
            finally:
                self._tape.forget()
        return loss

    def _head_loss(
        self, hidden: torch.Tensor, row: PackedRow, weight: float | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        head = self._base.model.head_weight
        with nullcontext() if weight is None or head is None else head.unpacked():
            self._yield()  # to unpack a head takes as long as a chunk
            return sum_of_losses(
                hidden, row.targets, self._base.model.logits, self._rows_at_once, weight=weight, between=self._yield
            )

    @contextmanager
    def _training(self, row: PackedRow, *, dropout: bool) -> Iterator[None]:
        context = self._base.context
        context.training = TrainingPass(row.documents, self._adapter.linears, self._mask if dropout else None)
        try:
            yield
        finally:
            context.training = None

    def _yield(self) -> None:
        context = self._base.context
        training, context.training = context.training, None
        try:
            self._between_layers()
        finally:
            context.training = training

    def _start_layer(self, index: int) -> None:
        """Dropout's masks depend on seed, row and layer alone: computed again, or in a run that goes on, a layer drops
        the same."""
        if self._adapter.config.dropout:
            key = f"{self._adapter.config.seed} {self._draw} {index}".encode()
            self._generator.manual_seed(int.from_bytes(hashlib.sha256(key).digest()[:7], "little"))

    def _mask(self, x: torch.Tensor) -> torch.Tensor:
        keep = 1 - self._adapter.config.dropout
        return torch.empty_like(x).bernoulli_(keep, generator=self._generator).div_(keep)


@torch.no_grad()
def require_parts(base: Base, between: Callable[[], None] = lambda: None) -> None:
    """A short text, computed by layers and head one after the other, must come out as by the whole model. In `between`
    the model is free.

    Raises:
        ModelError: it does not, or cannot be.
    """
    model = base.model
    ids, places = (torch.arange(first, first + 6, device=base.device) for first in (3, 0))
    try:
        apart, order = _watched(base, lambda: model.logits(model.hidden(ids, places)[places]))
        between()
        whole, whole_order = _watched(base, lambda: model(ids, places, places))
    except Exception as error:
        reason = str(error).partition("\n")[0]
        raise ModelError(
            f"this model cannot be trained: its layers and head cannot be told apart ({reason})"
        ) from error
    in_turn = list(range(len(list(model.layers))))
    if not order == whole_order == in_turn or not torch.allclose(apart, whole, rtol=1e-3, atol=1e-3):
        raise ModelError(
            "this model cannot be trained: its layers and head, one by one, compute something else than it"
        )


def _watched(base: Base, compute: Callable[[], torch.Tensor]) -> tuple[torch.Tensor, list[int]]:
    """Logits of six tokens, float32, and which layers computed them."""
    order: list[int] = []
    handles = [
        layer.register_forward_hook(lambda *_, place=place: order.append(place))
        for place, layer in enumerate(base.model.layers)
    ]
    base.context.training = TrainingPass(Documents((6,)), {})
    try:
        return compute().float(), order
    finally:
        base.context.training = None
        for handle in handles:
            handle.remove()
