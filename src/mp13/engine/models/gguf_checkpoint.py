"""The weights of a GGUF file by their Hugging Face names, dequantized one tensor at a time."""

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from mp13.engine.models.gguf_config import num_rotary_heads, rotary_order, tensors_by_name
from mp13.engine.models.gguf_file import GGUFFile
from mp13.engine.models.progress import READING
from mp13.engine.request import OnProgress
from mp13.errors import ModelError

_SLAB = 1 << 22  # elements that are float32 at one time, for each thread


class GGUFCheckpoint:
    """Tensors in `dtype` and on `device`; `config` is the file's `model_config`. Use as a context manager."""

    def __init__(
        self, file: GGUFFile, config: dict[str, Any], dtype: torch.dtype, device: torch.device, on_progress: OnProgress
    ) -> None:
        self._file, self._config, self._dtype, self._device = file, config, dtype, device
        self._on_progress = on_progress
        self._tensors = tensors_by_name(file)
        self._num_read = 0

    def __enter__(self) -> "GGUFCheckpoint":
        self._pool = ThreadPoolExecutor(os.cpu_count())
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    @property
    def names(self) -> list[str]:
        return sorted(self._tensors)

    def has(self, name: str) -> bool:
        return name in self._tensors

    def read(self, name: str) -> torch.Tensor:
        if name not in self._tensors:
            raise ModelError(f"{self._file.path} has no tensor for {name!r}; fetch the file again")
        self._on_progress(READING, self._num_read / len(self._tensors))
        weight = self._dense(name)
        self._num_read += 1
        self._on_progress(READING, self._num_read / len(self._tensors))
        return weight

    def _dense(self, name: str) -> torch.Tensor:
        tensor = self._tensors[name]
        num_rows, width = tensor.shape[0], int(np.prod(tensor.shape[1:], dtype=np.int64))
        heads = num_rotary_heads(self._config, name)
        order = None if heads is None else rotary_order(heads, num_rows)
        if len(tensor.shape) == 1:
            vector = self._file.dense(tensor)
            return torch.tensor(vector if order is None else vector[order], dtype=self._dtype, device=self._device)
        whole = torch.empty(tensor.shape, dtype=self._dtype)

        def fill(rows: slice) -> None:
            values = self._file.dense(tensor, rows if order is None else order[rows])
            whole[rows] = torch.from_numpy(values)

        step = max(1, _SLAB // width)
        list(self._pool.map(fill, (slice(start, start + step) for start in range(0, num_rows, step))))
        return whole.to(self._device)
