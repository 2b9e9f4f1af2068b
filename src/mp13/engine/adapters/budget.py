"""How many bytes adapters take on the device, and how many are kept for them there before any is known."""

from collections.abc import Iterable, Mapping

from mp13.engine.linear.delta import LinearDelta
from mp13.engine.models.footprint import kept_for_adapters
from mp13.engine.models.interface import AdapterTarget


def adapter_budget(targets: Iterable[AdapterTarget], max_loras: int, max_rank: int) -> int:
    """What footprint's rule keeps for `max_loras` adapters on linears of these shapes."""
    layers: list[tuple[int, int]] = []
    head: list[tuple[int, int]] = []
    itemsize = 0
    for target in targets:
        linear = target.linear
        shape = (list(linear.parts.values())[target.part], linear.in_features)
        (head if linear.of_rows else layers).append(shape)
        itemsize = max(itemsize, linear.base.adapter_dtype.itemsize)
    return kept_for_adapters(layers, head, max_loras, max_rank, itemsize)


def device_bytes(deltas: Mapping[str, LinearDelta]) -> int:
    """What an adapter takes in a slot."""
    tensors = [tensor for delta in deltas.values() for tensor in (delta.a, delta.b, delta.gain) if tensor is not None]
    return sum(tensor.numel() * tensor.itemsize for tensor in tensors)
