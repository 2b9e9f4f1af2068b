"""Says before a model is read whether its weights fit the device, and if they don't, what would. Nothing is tried out:
a machine that runs out of memory may end the process without a word.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from mp13.engine.config import QUANTIZATION_NAMES, EngineConfig
from mp13.engine.models.footprint import ModelShape, WeightFormat, weight_format
from mp13.engine.models.room import is_out_of_memory, room_for
from mp13.engine.sizes import shown_size
from mp13.errors import ModelError, OutOfMemory


def require_room(
    config: EngineConfig, shape: ModelShape, quantization: str, dtype: torch.dtype, device: torch.device
) -> None:
    """Raises ModelError when the weights, kept as `quantization` and `dtype` say, need more than `device` has."""
    needed = loading_bytes(shape, weight_format(quantization, dtype.itemsize), dtype, device)
    room = room_for(device, config.gpu_memory_utilization)
    if needed > room:
        raise ModelError(
            f"the weights of {config.model} need {shown_size(needed, up=True)} as {_words(shape, quantization, dtype)} "
            f"and {device} has {shown_size(room)} for them; {_what_fits(shape, quantization, dtype, device, room)}"
        )


def loading_bytes(shape: ModelShape, form: WeightFormat, dtype: torch.dtype, device: torch.device) -> int:
    """The most that is held at once while the weights are read: all of them, and the largest linear a second time,
    where the CPU packs it even in float32. The CPU also packs a head of its own from a shared embedding. What another
    method packed stays as it is."""
    if shape.packed_bytes is not None:
        return shape.packed_bytes
    on_cpu = device.type == "cpu"
    head = form.stored_bytes(shape.embedding, form.head) if on_cpu and not shape.head and dtype == torch.bfloat16 else 0
    return shape.weight_bytes(form) + head + shape.largest_linear * (dtype.itemsize + (4 if on_cpu else 0))


@contextmanager
def out_of_memory_is_said(config: EngineConfig, device: torch.device) -> Iterator[None]:
    """Memory that runs out all the same, since others took it meanwhile, is an OutOfMemory."""
    try:
        yield
    except Exception as error:
        if not (is_out_of_memory(error) or is_out_of_memory(error.__cause__)):  # some libraries wrap it
            raise
        room = shown_size(room_for(device, config.gpu_memory_utilization))
    else:
        return
    raise OutOfMemory(
        f"{device} ran out of memory while {config.model} was loaded, with {room} left for it now; end what else runs "
        "there, or choose a smaller model"
    )


def _what_fits(shape: ModelShape, quantization: str, dtype: torch.dtype, device: torch.device, room: int) -> str:
    """The mildest change under which the weights fit, computed."""
    choices = [("dtype = 'bfloat16'", quantization, torch.bfloat16)] if dtype.itemsize > 2 else []
    others = [name for name in QUANTIZATION_NAMES if name not in ("none", quantization)]  # the most exact first
    choices += [(f"quantization = {name!r}", name, dtype) for name in others]
    for words, changed, as_dtype in choices:
        form = weight_format(changed, as_dtype.itemsize)
        needed = loading_bytes(shape, form, as_dtype, device)
        if needed <= room:
            return f"{words} would fit, with {shown_size(needed, up=True)}"
    return "choose a smaller model, or end what else runs there"


def _words(shape: ModelShape, quantization: str, dtype: torch.dtype) -> str:
    if shape.packed_bytes is not None:
        return "they are stored"
    return str(dtype).removeprefix("torch.") if quantization == "none" else quantization
