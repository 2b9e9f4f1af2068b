"""A model as Transformers keeps it: read, dequantized, changed and written as a folder that any tool can load."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from mp13.engine.linear.delta import LinearDelta
from mp13.engine.models.bridged_loading import DTYPE_ARGUMENT, first_line, read_dequantized
from mp13.engine.models.model_files import carry_files
from mp13.engine.models.model_layout import choose_quantization
from mp13.errors import AdapterError, ModelError

_SHARD = "5GB"
_SPARE_BYTES = 64 << 20  # beside the weights: tokenizer, configuration, the file system's own


def read_model(folder: Path, *, trust_remote_code: bool) -> PreTrainedModel:
    """The model on the CPU in its own dtype, dequantized if it is quantized.

    Raises:
        ModelError: it cannot be read, or its kind of quantization cannot be undone.
    """
    options = {"trust_remote_code": trust_remote_code, "local_files_only": True}
    try:
        config = AutoConfig.from_pretrained(folder, **options)
        if (chosen := choose_quantization("none", config)) is not None:
            return read_dequantized(folder, config, chosen, trust_remote_code)
        model = AutoModelForCausalLM.from_pretrained(
            folder, use_safetensors=True, **options, **_as_plain(config), **{DTYPE_ARGUMENT: "auto"}
        )
        if getattr(model, "is_quantized", False):
            model = model.dequantize()
        if getattr(config, "quantization_config", None):
            vars(model).pop("_weight_conversions", None)  # by which Transformers 5 would quantize it again on saving
    except Exception as error:  # Transformers raises many types; all mean that this folder cannot be merged into
        raise ModelError(f"the model in {folder} cannot be read for a merge: {first_line(error)}") from error
    return model.eval().requires_grad_(False)


def separate_head(model: PreTrainedModel) -> None:
    """Give a head that is tied to the embeddings a tensor of its own: what changes one must not change the other."""
    embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()
    if head is not None and head.weight is embeddings.weight:
        head.weight = torch.nn.Parameter(embeddings.weight.detach().clone(), requires_grad=False)


def is_quantized(folder: Path) -> bool:
    try:
        return bool(json.loads((folder / "config.json").read_text(encoding="utf-8")).get("quantization_config"))
    except (OSError, ValueError, AttributeError) as error:
        raise ModelError(f"{folder / 'config.json'} cannot be read ({error}); fetch the model again") from None


def _as_plain(config: Any) -> dict[str, Any]:
    """What tells Transformers to dequantize while reading, for the kinds that can do it only then."""
    quantization = getattr(config, "quantization_config", None) or {}
    method = quantization.get("quant_method") if isinstance(quantization, dict) else quantization.quant_method
    kinds = {"fp8": "FineGrainedFP8Config", "mxfp4": "Mxfp4Config"}
    kind = getattr(transformers, kinds.get(str(method), ""), None)
    return {"quantization_config": kind(dequantize=True)} if kind else {}


@torch.no_grad()
def add_to_weights(model: PreTrainedModel, deltas: Mapping[str, LinearDelta]) -> None:
    """W becomes W + gain · W + B A, computed in float32 and rounded once.

    Raises:
        AdapterError: the sum does not fit into the weights' dtype.
    """
    for path, delta in deltas.items():
        weight = model.get_submodule(path).weight
        wide = weight.data.float()
        change = delta.b.float() @ delta.a.float()
        if delta.gain is not None:
            change += delta.gain.float()[:, None] * wide
        weight.data = (wide + change).to(weight.dtype)
        if not weight.data.isfinite().all():
            raise AdapterError(f"{path} overflows {str(weight.dtype).removeprefix('torch.')}; use smaller weights")


def write_model(model: PreTrainedModel, folder: Path, base: Path, *, trust_remote_code: bool) -> None:
    """Write weights and configuration; everything else comes from the folder `base` as it is.

    Raises:
        ModelError: there is no room for it, or Transformers cannot save it.
    """
    _tie_if_equal(model)
    require_space(folder, sum(p.numel() * p.element_size() for p in model.parameters()))
    try:
        model.save_pretrained(folder, max_shard_size=_SHARD, safe_serialization=True)
    except Exception as error:  # Transformers raises many types here, too
        raise ModelError(f"the merged model cannot be saved: {first_line(error)}") from error
    carry_files(base, folder, code_too=trust_remote_code)


def require_space(folder: Path, num_bytes: int) -> None:
    """Raises ModelError when the disk of `folder` has no room for `num_bytes` and the files beside them."""
    free = shutil.disk_usage(folder).free
    if free < num_bytes + _SPARE_BYTES:
        raise ModelError(
            f"the merged model needs {num_bytes / 1e9:.1f} GB, but {folder.parent} has {free / 1e9:.1f} GB left; "
            "make room, or choose another folder"
        )


def _tie_if_equal(model: PreTrainedModel) -> None:
    """A head that equals the embeddings is tied to them; one that differs is saved beside them."""
    embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()
    if head is None or not getattr(model, "_tied_weights_keys", None):
        return
    equal = torch.equal(head.weight, embeddings.weight)
    if equal:
        head.weight = embeddings.weight
    for config in (model.config, model.config.get_text_config()):
        config.tie_word_embeddings = equal
