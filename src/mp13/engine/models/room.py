"""How much memory a device has left, and what running out of it looks like. What a model needs is footprint's."""

import gc
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from mp13.engine.main_memory import available_memory
from mp13.engine.models.footprint import SLACK
from mp13.errors import OutOfMemory


def room_for(device: torch.device, gpu_memory_utilization: float) -> int:
    """Bytes that may still be allocated on `device`.

    On a GPU: its share of the whole, less what any process holds there, and never more than this process was given
    with `torch.cuda.set_per_process_memory_fraction`. Elsewhere: what the machine, or its container, has available.
    """
    if device.type != "cuda":
        return available_memory()
    free, total = torch.cuda.mem_get_info(device)
    reserved = torch.cuda.memory_reserved(device)
    shared = int(total * gpu_memory_utilization) - (total - free - reserved)  # what others hold, and the context
    capped = int(total * gpu_memory_utilization * _process_fraction(device))
    return int(min(shared, capped) * (1 - SLACK)) - torch.cuda.memory_allocated(device)


def _process_fraction(device: torch.device) -> float:
    """The part of the GPU that this process may use; torch before 2.8 does not tell, and it is taken to be all."""
    told = getattr(torch.cuda, "get_per_process_memory_fraction", None)
    return 1.0 if told is None else float(told(device))


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether `error` is one of torch's or Python's ways to say that memory has run out."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    words = ("allocate memory", "not enough memory", "out of memory", "bad allocation", "bad_alloc")
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in words)


def readable(error: Exception) -> Exception:
    """`error`; one that says that memory has run out as a sentence, which holds nothing of what the step had made."""
    if not is_out_of_memory(error):
        return error
    return OutOfMemory(
        "there was no memory left for this in the middle of the work; ask again, lower max_num_batched_tokens or "
        "max_num_seqs, or end what else runs there"
    )


@contextmanager
def freed_on_failure() -> Iterator[None]:
    """What the body allocated is free again when it raises, even while somebody keeps the error."""
    try:
        yield
    except BaseException as error:
        release(error)
        raise


def release(error: BaseException) -> None:
    """Let go of what `error` holds: its traceback has the variables of every function it went through."""
    link: BaseException | None = error
    while link is not None:
        traceback.clear_frames(link.__traceback__)
        link = link.__context__
    free_memory()


def free_memory() -> None:
    """Give back to the device what nobody holds any more."""
    gc.collect()
    torch.cuda.empty_cache()  # does nothing where no GPU was ever used
