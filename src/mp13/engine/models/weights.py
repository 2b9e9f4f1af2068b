"""A checkpoint on disk: where it is, and its tensors by name. Only safetensors are read."""

import json
import re
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from mp13.errors import ModelError

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
        raise ModelError(f"model {model!r} cannot be fetched from the Hub: {_hub_reason(error)}") from None


def _hub_reason(error: Exception) -> str:
    name = type(error).__name__
    if name == "GatedRepoError":
        return "it is gated; accept its licence on the Hub, then run `hf auth login` or set HF_TOKEN"
    if name == "RepositoryNotFoundError":
        return "no such repository, or it is private; check the id, or run `hf auth login`"
    if name in ("LocalEntryNotFoundError", "OfflineModeIsEnabled", "ConnectionError", "ConnectError"):
        return "it is not in the local cache and the Hub cannot be reached; download it first, or give a folder"
    return f"{name}: {str(error).splitlines()[0] if str(error) else 'no reason given'}"


class Checkpoint:
    """Tensors of a safetensors folder, by name, in `dtype` and on `device`. Use as a context manager.

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

    def read(self, name: str) -> torch.Tensor:
        if name not in self._file_of:
            raise ModelError(f"{self._folder} has no tensor {name!r}; the checkpoint does not fit its config.json")
        self._num_read += 1
        self._on_progress("weights", self._num_read / len(self._file_of))
        tensor: torch.Tensor = self._file_of[name].get_tensor(name)
        return tensor.to(self._device, self._dtype)


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model, those that its index names if it has one."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        except (ValueError, KeyError, AttributeError) as error:
            raise ModelError(f"{index} cannot be read ({error}); fetch the model again") from None
        paths = [folder / Path(name).name for name in names]
    else:
        paths = sorted(folder.glob("*.safetensors"))
    if not paths:
        raise ModelError(f"{folder} holds no *.safetensors; convert the model to safetensors first")
    if missing := [path.name for path in paths if not path.is_file()]:
        raise ModelError(f"{folder} lacks {', '.join(missing)}; fetch the model again")
    return paths
