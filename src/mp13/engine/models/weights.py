"""A checkpoint on disk: where it is, and its tensors by name. Only safetensors are read."""

import re
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from mp13.engine.models.model_files import weight_files
from mp13.errors import ModelError
from mp13.hub_errors import hub_reason

OnProgress = Callable[[str, float | None], None]
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def model_folder(model: str, on_progress: OnProgress) -> Path:
    """The folder of `model`: itself, or the Hugging Face cache's copy of the repository of that id, fetched if needed.

    Raises:
        ModelError: there is no such folder, or the Hub cannot give the repository.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists():
        raise ModelError(
            f"model {model!r} is a file; give a folder in Hugging Face format, or a Hub id such as org/name"
        )
    if not _HUB_ID.fullmatch(model):
        raise ModelError(f"model {model!r} is no folder here and no Hub id; give a folder, or an id such as org/name")
    from huggingface_hub import snapshot_download

    on_progress("download", None)
    try:
        return Path(snapshot_download(model, allow_patterns=["*.json", "*.safetensors", "*.model", "*.jinja", "*.txt"]))
    except Exception as error:  # network, authentication and cache errors have many types and all end here
        raise ModelError(f"model {model!r} cannot be fetched from the Hub: {hub_reason(error)}") from None


class Checkpoint:
    """Tensors of a safetensors folder, by name, floating ones in `dtype`, on `device`. Use as a context manager.

    Raises:
        ModelError: no safetensors in the folder, a damaged file, or (from `read`) a tensor that is not there.
    """

    def __init__(self, folder: Path, dtype: torch.dtype, device: torch.device, on_progress: OnProgress) -> None:
        self._folder, self._dtype, self._device, self._on_progress = folder, dtype, device, on_progress
        self._stack = ExitStack()
        self._file_of: dict[str, Any] = {}
        self._num_read = 0

    def __enter__(self) -> "Checkpoint":
        for path in weight_files(self._folder):
            try:
                file = self._stack.enter_context(safe_open(path, framework="pt", device="cpu"))
            except (OSError, SafetensorError) as error:
                raise ModelError(f"{path} is damaged or incomplete ({error}); fetch the model again") from None
            self._file_of.update(dict.fromkeys(file.keys(), file))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def names(self) -> list[str]:
        return sorted(self._file_of)

    def read(self, name: str) -> torch.Tensor:
        if name not in self._file_of:
            raise ModelError(f"{self._folder} has no tensor {name!r}; the checkpoint does not fit its config.json")
        self._num_read += 1
        self._on_progress("weights", self._num_read / len(self._file_of))
        tensor: torch.Tensor = self._file_of[name].get_tensor(name)
        return tensor.to(self._device, self._dtype if tensor.is_floating_point() else None)
