"""Which files are a model's weights, the safetensors of a folder or one GGUF file, and what their headers say. No
torch: the library asks, too."""

import json
import shutil
from pathlib import Path

from safetensors import SafetensorError, safe_open

from mp13.errors import ModelError

_OTHER_LAYOUT = "consolidated"  # Mistral AI puts the same weights beside the model under names of its own
_CARRIED = ("*.json", "*.jinja", "*.model", "*.txt", "*.tiktoken")
_OWN = ("config.json", "model.safetensors.index.json", "mp13.json")  # say what these very weights are
_BESIDE_TEXT = ("vision", "visual", "image", "audio", "multi_modal")  # in names of what sees and hears


def gguf_file(path: Path) -> Path | None:
    """The GGUF file that `path` means: itself, or the only one of a folder without safetensors; None for other folders.

    Raises:
        ModelError: the folder holds several.
    """
    if path.is_file():
        return path
    files = sorted(path.glob("*.gguf"))
    if not files or next(path.glob("*.safetensors"), None) or next(path.glob("*.safetensors.index.json"), None):
        return None
    if len(files) > 1:
        names = ", ".join(file.name for file in files)
        raise ModelError(f"{path} holds {len(files)} GGUF files; give one of them as the model: {names}")
    return files[0]


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model, those that its index names if it has one.

    Raises:
        ModelError: there are none, one is missing, or the index cannot be read.
    """
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
            paths = [folder / Path(name).name for name in names]
        except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
            raise ModelError(f"{index} cannot be read ({error}); fetch the model again") from None
    else:
        every = sorted(folder.glob("*.safetensors"))
        paths = [path for path in every if not path.name.startswith(_OTHER_LAYOUT)] or every
    if not paths:
        raise ModelError(f"{folder} holds no *.safetensors and no *.gguf; convert the model to safetensors first")
    if missing := [path.name for path in paths if not path.is_file()]:
        raise ModelError(f"{folder} lacks {', '.join(missing)}; fetch the model again")
    return paths


def weight_bytes(folder: Path) -> int:
    """How large those files are."""
    return sum(path.stat().st_size for path in weight_files(folder))


def carry_files(base: Path, folder: Path, *, code_too: bool) -> None:
    """Copy what lies beside the weights of `base` (tokenizer, template, generation settings) to a model made of it."""
    for pattern in (*_CARRIED, *(("*.py",) if code_too else ())):
        for path in base.glob(pattern):
            if path.name not in _OWN and not (folder / path.name).exists():
                shutil.copyfile(path, folder / path.name)


def is_of_text(name: str) -> bool:
    """Whether the tensor or module of that name is part of the text model, not of what sees or hears around it."""
    return not any(word in name for word in _BESIDE_TEXT)


def tensor_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor of a model, by name, from the headers alone.

    Raises:
        ModelError: as `weight_files`, or a file is damaged.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for path in weight_files(folder):
        try:
            with safe_open(path, framework="numpy") as file:
                names = file.keys()
                shapes.update({name: tuple(file.get_slice(name).get_shape()) for name in names})
        except (OSError, SafetensorError) as error:
            raise ModelError(f"{path} is damaged or incomplete ({error}); fetch the model again") from None
    return shapes
