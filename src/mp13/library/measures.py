"""How large a model is, wherever it is: on disk, not installed yet, or on the Hub, which is asked for headers alone."""

import json
import tempfile
from pathlib import Path
from typing import Any

from mp13.engine.models.footprint import model_shape, saved_quantization
from mp13.errors import ModelError
from mp13.hub_errors import hub_reason
from mp13.library.fit import SavedModel, itemsize_of, read_model
from mp13.library.hub import is_path
from mp13.library.models import model_folder
from mp13.library.starter import STARTER_SHAPE, starter_dir, starter_ready


def measure_model(model: str) -> SavedModel:
    """The sizes of `model`: a folder, a GGUF file, a name that `list_models` has, or a Hub id. May wait for the Hub.

    Raises:
        ModelError: it is nowhere, its files do not say, or the Hub does not give them.
    """
    if model == str(starter_dir()) and not starter_ready():
        return SavedModel(model_shape(STARTER_SHAPE), 2, None)
    try:
        folder = model_folder(model)
    except ModelError:
        if is_path(model) or "/" not in model:
            raise
        return _on_the_hub(model)
    return read_model(folder)


def _on_the_hub(repo: str) -> SavedModel:
    """From config.json and the headers of the weights; neither goes into the cache as if the model were there."""
    import huggingface_hub
    from huggingface_hub import utils

    untyped: Any = utils
    untyped.disable_progress_bars()
    untyped.logging.set_verbosity_error()
    try:
        with tempfile.TemporaryDirectory(prefix="mp13-") as folder:
            path = huggingface_hub.hf_hub_download(repo, "config.json", local_dir=folder)
            config = json.loads(Path(path).read_text(encoding="utf-8"))
        headers = huggingface_hub.HfApi().get_safetensors_metadata(repo).files_metadata.values()
    except huggingface_hub.errors.EntryNotFoundError:
        raise ModelError(f"{repo} has no config.json, so it is no model that runs here; choose another") from None
    except huggingface_hub.errors.NotASafetensorsRepoError:
        raise ModelError(f"{repo} holds no model in safetensors; choose another repository") from None
    except Exception as error:  # network, authentication and parsing errors have many types
        raise ModelError(f"{repo} is no folder here and not to be had from the Hub: {hub_reason(error)}") from None
    if not isinstance(config, dict):
        raise ModelError(f"config.json of {repo} is no configuration; choose another repository")
    tensors = {name: tuple(tensor.shape) for file in headers for name, tensor in file.tensors.items()}
    num_bytes = sum(tensor.data_offsets[1] - tensor.data_offsets[0] for f in headers for tensor in f.tensors.values())
    return SavedModel(model_shape(config, tensors, num_bytes), itemsize_of(config), saved_quantization(config))
