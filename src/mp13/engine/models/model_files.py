"""Which files of a folder are a model's weights, and what their headers say. Only safetensors count. No torch: the
library asks, too."""

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open

from mp13.errors import ModelError


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
        paths = sorted(folder.glob("*.safetensors"))
    if not paths:
        raise ModelError(f"{folder} holds no *.safetensors; convert the model to safetensors first")
    if missing := [path.name for path in paths if not path.is_file()]:
        raise ModelError(f"{folder} lacks {', '.join(missing)}; fetch the model again")
    return paths


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
