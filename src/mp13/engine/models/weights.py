"""A checkpoint on disk: where it is, and the tensors of a safetensors folder by name."""

import re
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from mp13.engine.models.fp8 import SCALE, dequantized, is_fp8
from mp13.engine.models.hub_download import download
from mp13.engine.models.model_files import gguf_file, weight_files
from mp13.engine.models.progress import READING
from mp13.engine.request import OnProgress
from mp13.errors import ModelError
from mp13.hub_errors import hub_reason

_AROUND = re.compile(r"^(?:model\.language_model|language_model\.model)\.")
_AROUND_HEAD = re.compile(r"^language_model\.lm_head\.")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def model_path(model: str, on_progress: OnProgress) -> Path:
    """Where `model` is: a GGUF file, a folder in Hugging Face format, or the Hugging Face cache's copy of the
    repository of that id, fetched if needed.

    Raises:
        ModelError: there is no such file or folder, or the Hub cannot give the repository.
    """
    path = Path(model).expanduser()
    if path.exists():
        return gguf_file(path) or path
    if not _HUB_ID.fullmatch(model):
        raise ModelError(
            f"model {model!r} is no folder or file here and no Hub id; give a folder, a GGUF file, or an id such as "
            "org/name"
        )
    try:
        return download(model, on_progress)
    except Exception as error:  # network, authentication and cache errors have many types and all end here
        raise ModelError(f"model {model!r} cannot be fetched from the Hub: {hub_reason(error)}") from None


class Checkpoint:
    """Tensors of a safetensors folder, by name, floating ones in `dtype`, on `device`. Use as a context manager.

    A text model within a larger one has its names as if it were alone. Weights in fp8 are dequantized.

    Raises:
        ModelError: no safetensors in the folder, a damaged file, or (from `read`) a tensor that is not there.
    """

    def __init__(self, folder: Path, dtype: torch.dtype, device: torch.device, on_progress: OnProgress) -> None:
        self._folder, self._dtype, self._device, self._on_progress = folder, dtype, device, on_progress
        self._stack = ExitStack()
        self._places: dict[str, tuple[Any, str]] = {}  # name -> file and its name there
        self._num_read = 0

    def __enter__(self) -> "Checkpoint":
        for path in weight_files(self._folder):
            try:
                file = self._stack.enter_context(safe_open(path, framework="pt", device="cpu"))
            except (OSError, SafetensorError) as error:
                raise ModelError(f"{path} is damaged or incomplete ({error}); fetch the model again") from None
            self._places.update({_alone(key): (file, key) for key in file.keys()})  # noqa: SIM118
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def names(self) -> list[str]:
        return sorted(self._places)

    def has(self, name: str) -> bool:
        return name in self._places

    def read(self, name: str) -> torch.Tensor:
        if name not in self._places:
            raise ModelError(f"{self._folder} has no tensor {name!r}; the checkpoint does not fit its config.json")
        self._on_progress(READING, self._num_read / len(self._places))
        self._num_read += 1
        tensor = self._tensor(name)
        if is_fp8(tensor):
            if not self.has(name + SCALE):
                raise ModelError(f"{self._folder} has {name!r} in fp8 without its scale; fetch the model again")
            tensor = dequantized(tensor, self._tensor(name + SCALE))
        tensor = tensor.to(self._device, self._dtype if tensor.is_floating_point() else None)
        self._on_progress(READING, self._num_read / len(self._places))
        return tensor

    def _tensor(self, name: str) -> torch.Tensor:
        file, key = self._places[name]
        tensor: torch.Tensor = file.get_tensor(key)
        return tensor


def _alone(key: str) -> str:
    """The name that a text model's tensor has without the model of text and images around it."""
    return _AROUND_HEAD.sub("lm_head.", _AROUND.sub("model.", key))
