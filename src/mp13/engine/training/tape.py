"""The way back through a model, layer by layer: the graph is cut where one layer hands its hidden states to the next.

So a caller gets a turn at every layer's boundary, on the way back, too; and a layer's activations can be let go and be
computed again (gradient checkpointing, Chen et al. 2016) without knowing anything of the layer.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn


@dataclass
class _Segment:
    """One layer's part of the graph. `output` is None where it is to be computed again, from `args` and `kwargs`."""

    index: int
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    output: torch.Tensor | None
    cut: torch.Tensor  # the next layer's input, a leaf


class LayerTape:
    """
    Args:
        layers: called in order, each with the hidden states as its first argument or `hidden_states`; each gives them,
            or a tuple that begins with them.
        learns: of each layer, whether it has something to train; before the first that does, nothing is kept.
        starting: called with a layer's number before it is computed, for the first time or again.
        between: called after each layer, on both ways.
    """

    def __init__(
        self,
        layers: Sequence[nn.Module],
        learns: Sequence[bool],
        *,
        checkpointing: bool,
        starting: Callable[[int], None],
        between: Callable[[], None],
    ) -> None:
        self._layers, self._checkpointing = layers, checkpointing
        self._starting, self._between = starting, between
        self._needs_grad = [any(learns[: i + 1]) for i in range(len(layers))]  # of a layer's output
        self._segments: list[_Segment] = []
        self._saves = False  # whether gradients are wanted of what is being recorded
        self._is_away = False  # while others compute with the same layers

    @contextmanager
    def recording(self, *, with_grad: bool) -> Iterator[None]:
        """Within, one pass through the layers is recorded; without a gradient it only has its boundaries."""
        self._segments, self._saves = [], with_grad
        handles = [
            handle
            for index, layer in enumerate(self._layers)
            for handle in (
                layer.register_forward_pre_hook(self._before(index), with_kwargs=True),
                layer.register_forward_hook(self._after(index), with_kwargs=True),
            )
        ]
        try:
            with torch.set_grad_enabled(with_grad):
                yield
        finally:
            for handle in handles:
                handle.remove()

    def backward(self) -> None:
        """Once the hidden states behind the last layer have their gradient: bring it through all layers."""
        while self._segments:
            segment = self._segments.pop()
            grad = segment.cut.grad
            if grad is None or not self._needs_grad[segment.index]:
                self._segments.clear()
                break
            output = self._again(segment) if segment.output is None else segment.output
            torch.autograd.backward(output, grad)
            del output, grad, segment  # the layer's activations, before the next one's are made
            self._give_turn()

    def forget(self) -> None:
        """Let go of a pass that will not be finished."""
        self._segments.clear()

    def _again(self, segment: _Segment) -> torch.Tensor:
        self._starting(segment.index)
        with torch.enable_grad():
            return _hidden(self._layers[segment.index](*segment.args, **segment.kwargs))

    def _before(self, index: int) -> Callable[..., None]:
        def hook(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if self._is_away:
                return
            self._starting(index)
            torch.set_grad_enabled(self._saves and not self._checkpointing)

        return hook

    def _after(self, index: int) -> Callable[..., Any]:
        def hook(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
            if self._is_away:
                return None
            torch.set_grad_enabled(self._saves)
            hidden = _hidden(output)
            if self._saves:
                cut = hidden.detach().requires_grad_(self._needs_grad[index])
                again = self._checkpointing
                self._segments.append(
                    _Segment(index, args if again else (), kwargs if again else {}, None if again else hidden, cut)
                )
                output = (cut, *output[1:]) if isinstance(output, tuple) else cut
            self._give_turn()
            return output

        return hook

    def _give_turn(self) -> None:
        self._is_away = True
        try:
            self._between()
        finally:
            self._is_away = False


def _hidden(output: Any) -> torch.Tensor:
    hidden: torch.Tensor = output[0] if isinstance(output, tuple) else output
    return hidden
