"""The processes that train one adapter together, each upon a copy of the base: data parallel over torch.distributed.

All hold the same adapter and draw the same steps; of a step's rows each computes its share, and the gradients are added
up before everybody takes the same step. The first alone writes.
"""

import os
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import distributed

Item = TypeVar("Item")


class Peers:
    """Of a process that trains alone, unless `together` made them."""

    rank, size = 0, 1

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def share(self, items: Sequence[Item]) -> Sequence[Item]:
        """Those of this process; may be none."""
        return items[self.rank :: self.size]

    def add_up(self, tensor: torch.Tensor) -> None:
        """Put the sum over all processes into it."""
        if self.size > 1:
            distributed.all_reduce(tensor)

    def any(self, flag: bool) -> bool:
        """Whether it is so in any process; the same answer in each."""
        if self.size == 1:
            return flag
        flags = torch.tensor([float(flag)])
        distributed.all_reduce(flags)
        return bool(flags)


class _Together(Peers):
    def __init__(self) -> None:
        on_gpu = torch.cuda.is_available()
        if on_gpu:
            torch.cuda.set_device(local_rank() % torch.cuda.device_count())
        distributed.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo")
        self.rank, self.size = distributed.get_rank(), distributed.get_world_size()


ALONE = Peers()
_known: list[Peers] = []


def peers() -> Peers:
    """Those that torchrun started this process with."""
    if not _known:
        _known.append(_Together() if int(os.environ.get("WORLD_SIZE", "1")) > 1 else ALONE)
    return _known[0]


def local_rank() -> int:
    return int(os.environ.get("LOCAL_RANK", "0"))


def told_by_first(value: Any) -> Any:
    """What the first process has, in all of them."""
    box = [value]
    distributed.broadcast_object_list(box, src=0, device=torch.device("cpu"))
    return box[0]
