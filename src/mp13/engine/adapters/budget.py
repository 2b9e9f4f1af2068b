"""How many bytes adapters take on the device, and how many are kept for them there before any is known."""

from collections.abc import Iterable, Mapping

from mp13.engine.linear.delta import LinearDelta
from mp13.engine.models.footprint import PLAUSIBLE_RANK
from mp13.engine.models.interface import AdapterTarget


def adapter_budget(targets: Iterable[AdapterTarget], max_loras: int, max_rank: int) -> int:
    """Room for `max_loras` adapters on every linear of the layers, of rank 16 or `max_rank` where that is less."""
    rank, widths, itemsize = min(PLAUSIBLE_RANK, max_rank), 0, 0
    for target in targets:
        linear = target.linear
        if not linear.of_rows:
            widths += linear.in_features + list(linear.parts.values())[target.part]
            itemsize = max(itemsize, linear.base.adapter_dtype.itemsize)
    return max_loras * rank * widths * itemsize


def device_bytes(deltas: Mapping[str, LinearDelta]) -> int:
    """What an adapter takes in a slot."""
    tensors = [tensor for delta in deltas.values() for tensor in (delta.a, delta.b, delta.gain) if tensor is not None]
    return sum(tensor.numel() * tensor.itemsize for tensor in tensors)
