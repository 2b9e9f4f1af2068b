"""Counts the bytes of tensors that are alive at once."""

import weakref
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """While it is on, `now` are the bytes of the storages that operations have made and that are still held, `peak` the
    most there were. What is only mapped from a file, as safetensors does, is nobody's memory and not counted."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if _is_plain(t)}
        for tensor in tree_leaves(result):
            if _is_plain(tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in given and storage._cdata not in self._known:
                    self._add(storage)
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        self._known.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._remove, key, size)

    def _remove(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


def _is_plain(value: Any) -> bool:
    """Whether it is a tensor with memory of its own or a view of it; oneDNN's blocked ones hide theirs."""
    return isinstance(value, torch.Tensor) and value.device.type != "meta" and value.layout is torch.strided
