"""Where a model's configuration, tokenizer and weights are, whether it is a folder or a GGUF file.

What reads GGUF is imported only for such a file: the library that knows the format takes long to import.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch

from mp13.engine.models.model_files import tensor_shapes, weight_bytes
from mp13.engine.models.weights import Checkpoint
from mp13.engine.request import OnProgress

if TYPE_CHECKING:
    from mp13.engine.models.gguf_checkpoint import GGUFCheckpoint
    from mp13.engine.models.gguf_file import GGUFFile


@dataclass(frozen=True)
class ModelSource:
    """`path` is what the user has, `folder` has the files that Transformers reads beside the weights."""

    path: Path
    folder: Path
    gguf: GGUFFile | None = None
    gguf_config: dict[str, Any] | None = None

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every tensor by name, from headers alone. Raises ModelError as `weight_files` does."""
        if self.gguf is None:
            return tensor_shapes(self.folder)
        from mp13.engine.models.gguf_config import gguf_shapes

        return gguf_shapes(self.gguf)

    def num_bytes(self) -> int:
        """How large the files of its weights are. Raises ModelError as `weight_files` does."""
        return weight_bytes(self.folder) if self.gguf is None else self.path.stat().st_size

    def checkpoint(
        self, dtype: torch.dtype, device: torch.device, on_progress: OnProgress
    ) -> AbstractContextManager[Checkpoint | GGUFCheckpoint]:
        if self.gguf is None or self.gguf_config is None:
            return Checkpoint(self.folder, dtype, device, on_progress)
        from mp13.engine.models.gguf_checkpoint import GGUFCheckpoint

        return GGUFCheckpoint(self.gguf, self.gguf_config, dtype, device, on_progress)


@contextmanager
def open_source(path: Path) -> Iterator[ModelSource]:
    """The model at `path` (see `model_path`); what a GGUF file tells lies in a temporary folder meanwhile.

    Raises:
        ModelError: a GGUF file is damaged or of a kind that cannot run here.
    """
    if path.is_dir():
        yield ModelSource(path, path)
        return
    from mp13.engine.models.gguf_file import GGUFFile
    from mp13.engine.models.gguf_folder import write_settings

    file = GGUFFile(path)
    with TemporaryDirectory(prefix="mp13-") as folder:
        config = write_settings(file, Path(folder))
        yield ModelSource(path, Path(folder), file, config)
