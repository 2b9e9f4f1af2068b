"""Adapters that only PEFT can compute (IA3, LoHa, LoKr, VeRA, OFT, whole modules, biases, …): put on a model, and
merged into it, by PEFT itself. No pickle is loaded and no module that the folder names is imported."""

import dataclasses
import json
import re
from pathlib import Path

import peft
import torch
from peft.mapping import PEFT_TYPE_TO_PREFIX_MAPPING
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import PreTrainedModel

from mp13.engine.adapters.adapter_config import CONFIG_FILE, read_small_file
from mp13.engine.adapters.tensor_file import WEIGHTS_FILE
from mp13.engine.models.bridged_loading import first_line
from mp13.errors import AdapterError

_MAX_CONFIG_BYTES = 1 << 20
_COPY = re.compile(r"\.(modules_to_save|original_module)\.weight$")
_SEEDED = ("base_model.vera_A", "base_model.vera_B")  # early versions make them again from the seed beside them
_IMPORTS_CODE = ("megatron_config",)  # PEFT imports the module named beside it


def read_foreign(folder: Path) -> tuple[peft.PeftConfig, dict[str, torch.Tensor]]:
    """The configuration and tensors in `folder`.

    Raises:
        AdapterError: they cannot be read, or this version of PEFT would leave a part of them out.
    """
    path = folder / CONFIG_FILE
    try:
        fields = json.loads(read_small_file(path, _MAX_CONFIG_BYTES))
        config: peft.PeftConfig = peft.PeftConfig.from_pretrained(folder)
        tensors = load_file(folder / WEIGHTS_FILE)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError, SafetensorError) as error:
        raise AdapterError(f"PEFT {peft.__version__} cannot read {folder}: {first_line(error)}") from None
    known = {field.name for field in dataclasses.fields(config)}
    for field, value in fields.items():
        if value and (field not in known or field in _IMPORTS_CODE):
            raise AdapterError(
                f"{path}: {field:.80} = {value!r:.80} is nothing that PEFT {peft.__version__} can merge; try a later "
                "one, or train the adapter again as a LoRA"
            )
    return config, _without_copies(tensors)


def _without_copies(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """PEFT saves whole embeddings of a resized vocabulary three times: trained, trained again, and as they were."""
    stems = {key: _COPY.sub("", key) for key in tensors}
    return {
        key: tensor for key, tensor in tensors.items() if stems[key] == key or f"{stems[key]}.weight" not in tensors
    }


def make_room(model: PreTrainedModel, tensors: dict[str, torch.Tensor]) -> None:
    """Give the model as many token embeddings as an adapter with whole embeddings has."""
    embeddings = model.get_input_embeddings()
    name = next(name for name, module in model.named_modules() if module is embeddings)
    rows = [tensor.shape[0] for key, tensor in tensors.items() if key.endswith(f"{name}.weight")]
    if rows and rows[0] != embeddings.weight.shape[0]:
        model.resize_token_embeddings(rows[0], mean_resizing=False)


def attach(
    model: PreTrainedModel, config: peft.PeftConfig, tensors: dict[str, torch.Tensor], name: str
) -> peft.PeftModel:
    """The model with the adapter on, not merged. The model is changed in place.

    Raises:
        AdapterError: the adapter does not fit the model, or it is of a kind that has no merge.
    """
    config.inference_mode = True
    try:
        adapted = peft.get_peft_model(model, config)
        if not hasattr(adapted.base_model, "merge_and_unload"):
            raise AdapterError(f"{name!r} is of type {config.peft_type}, which PEFT cannot merge into a model")
        result = peft.set_peft_model_state_dict(adapted, tensors)
    except (ValueError, RuntimeError, TypeError, KeyError, AttributeError, ImportError) as error:
        raise AdapterError(f"{name!r} does not fit this model: {first_line(error)}; was it made for it?") from error
    own = (PEFT_TYPE_TO_PREFIX_MAPPING.get(config.peft_type) or ".default", "modules_to_save.default")
    missing = [key for key in result.missing_keys if ".default" in key and any(part in key for part in own)]
    if wrong := [*missing, *(key for key in result.unexpected_keys if key not in _SEEDED)]:
        raise AdapterError(
            f"{name!r} does not fit this model: {len(wrong)} tensors are missing or surplus, {wrong[0]!r} among them"
        )
    return adapted.eval()


def merged(adapted: peft.PeftModel, name: str) -> PreTrainedModel:
    """The model with the adapter in its weights."""
    try:
        model: PreTrainedModel = adapted.base_model.merge_and_unload(safe_merge=True)
    except (ValueError, RuntimeError, TypeError, NotImplementedError, AttributeError) as error:
        raise AdapterError(f"PEFT {peft.__version__} cannot merge {name!r}: {first_line(error)}") from error
    return model
