"""Which files of a repository are wanted: those of a PEFT adapter or of a model, never pickles or code.

A repository without them is refused with what it has instead.
"""

import re

from mp13.engine.adapters.adapter_config import CONFIG_FILE
from mp13.engine.adapters.tensor_file import WEIGHTS_FILE
from mp13.errors import AdapterError, ModelError
from mp13.library.hub import Listing

_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_LARGEST_TEXT = 64 << 20  # bytes
_MODEL_TEXTS = re.compile(r"\.(json|jinja|txt|model|model\.v\w+)$")  # .model: a SentencePiece vocabulary


def adapter_files(listing: Listing) -> list[str]:
    """The files of the adapter at a place.

    Raises:
        AdapterError: there is none that may be loaded.
    """
    files, place = listing.files, listing.place.text
    if CONFIG_FILE in files and WEIGHTS_FILE in files:
        texts = [name for name, size in files.items() if name.endswith((".json", ".jinja")) and size <= _LARGEST_TEXT]
        return sorted({*texts, CONFIG_FILE, WEIGHTS_FILE})
    if inside := _folders_with(CONFIG_FILE, listing):
        shown = ", ".join(f"{listing.place.repo}/{folder}" for folder in inside[:5])
        raise AdapterError(f"{place} is not an adapter itself; it has {len(inside)} in folders: {shown}")
    if CONFIG_FILE in files:
        pickles = ", ".join(name for name in sorted(files) if name.endswith(_PICKLES))
        if pickles:
            raise AdapterError(
                f"{place} has its weights only as a pickle ({pickles}), which is never loaded; look for a pull request "
                f"of it that adds {WEIGHTS_FILE} (then {place}@refs/pr/N), or ask its author for safetensors"
            )
        raise AdapterError(f"{place} has no {WEIGHTS_FILE}; choose another repository or revision")
    if "adapters.safetensors" in files:
        raise AdapterError(f"{place} is an adapter in MLX's own format; look for one that PEFT saved")
    if "config.json" in files:
        raise AdapterError(f"{place} is a model and no adapter; `mp13 models pull {place}` fetches it")
    raise AdapterError(f"{place} holds no {CONFIG_FILE}; give a repository, or a folder of one, that PEFT saved")


def model_files(listing: Listing) -> list[str]:
    """The files of the model at a place.

    Raises:
        ModelError: there is none in safetensors.
    """
    files, place = listing.files, listing.place.text
    weights = [name for name in files if name.endswith(".safetensors")]
    if "config.json" in files and weights and WEIGHTS_FILE not in weights:
        standard = [name for name in weights if name.startswith("model")]  # beside them: the same in another layout
        texts = [name for name, size in files.items() if _MODEL_TEXTS.search(name) and size <= _LARGEST_TEXT]
        return sorted({*texts, *(standard or weights)})
    if CONFIG_FILE in files:
        raise ModelError(f"{place} is an adapter and no model; `mp13 adapters add {place}` fetches it")
    for suffix, what, fix in (
        (".gguf", "as GGUF", "download one of its files and give that as the model"),
        (_PICKLES, "as a pickle, which is never loaded,", "choose another repository"),
    ):
        if any(name.endswith(suffix) for name in files):
            raise ModelError(f"{place} has its weights {what} and not as safetensors; {fix}")
    raise ModelError(f"{place} holds no model in safetensors; choose another repository")


def _folders_with(name: str, listing: Listing) -> list[str]:
    start = f"{listing.place.folder}/" if listing.place.folder else ""
    ending = f"/{name}"
    return [path.removesuffix(ending) for path in listing.paths if path.endswith(ending) and path.startswith(start)]
