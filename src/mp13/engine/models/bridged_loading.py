"""Brings a model of Transformers into memory: whole, by Transformers itself, or linear by linear in few bits.

For the latter the model is made without weights and filled from our own checkpoint. Where Transformers would rename or
rearrange tensors on the way, it has to load the whole first.
"""

import copy
import inspect
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import transformers
from accelerate import init_empty_weights
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from mp13.engine.context import StepContext
from mp13.engine.linear.adapted_linear import AdaptedLinear
from mp13.engine.models.model_files import is_of_text, weight_files
from mp13.engine.models.model_layout import ChosenQuantization, ModelLayout
from mp13.engine.models.model_weights import DenseEmbedding, ModelWeights
from mp13.engine.models.progress import QUANTIZING, as_quantizing, reading_is_told
from mp13.engine.models.quantized_weights import QuantizedWeights
from mp13.engine.models.weights import Checkpoint
from mp13.engine.request import OnProgress
from mp13.errors import ConfigError, ModelError

# What Transformers' loaders call the dtype.
DTYPE_ARGUMENT = "dtype" if int(transformers.__version__.split(".")[0]) >= 5 else "torch_dtype"


def read_whole(
    folder: Path,
    config: Any,
    dtype: torch.dtype,
    device: torch.device,
    trust_remote_code: bool,
    on_progress: OnProgress = lambda stage, fraction: None,
) -> PreTrainedModel:
    """The model in full, as Transformers loads it. Only safetensors are read, no pickle.

    Raises:
        ModelError: the weights cannot be read or are incomplete.
    """
    weight_files(folder)
    try:
        with reading_is_told(on_progress):
            model, info = AutoModelForCausalLM.from_pretrained(
                folder,
                config=config,
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=trust_remote_code,
                attn_implementation="eager",
                device_map=None if device.type == "cpu" else {"": device},
                output_loading_info=True,
                **{DTYPE_ARGUMENT: dtype},
            )
    except Exception as error:  # Transformers raises many types; all mean that this folder cannot be used
        raise _unloadable(folder, error) from error
    if missing := sorted(info["missing_keys"]):
        raise ModelError(
            f"the model in {folder} lacks {len(missing)} weights, {missing[0]!r} among them; download it again"
        )
    return model.eval().requires_grad_(False)


def read_quantized(
    folder: Path,
    config: Any,
    dtype: torch.dtype,
    device: torch.device,
    context: StepContext,
    chosen: ChosenQuantization,
    on_progress: OnProgress,
    trust_remote_code: bool,
) -> tuple[PreTrainedModel, dict[str, AdaptedLinear], ChosenQuantization]:
    """The model with our quantized linears in place of its own, these by name, and what was chosen for it.

    Raises:
        ConfigError: the model, or one of its layers, cannot be quantized so. ModelError: as `read_whole`.
    """
    model = empty_model(folder, config, dtype, trust_remote_code)
    layout = bridged_layout(model, chosen)
    chosen = chosen.fitted(layout, dtype, device)
    cpu = torch.device("cpu")
    quantizing = on_progress if chosen.is_stored else as_quantizing(on_progress)
    with Checkpoint(folder, dtype, cpu, quantizing) as checkpoint:
        reason = None if chosen.is_stored else why_not_by_name(model, layout, checkpoint.names)
        if reason is None:
            weights = QuantizedWeights(checkpoint.read, dtype, device, chosen, dtype)
            return model, fill(model, layout, weights, context), chosen
    whole = read_whole(folder, config, dtype, cpu, trust_remote_code, on_progress)
    num_tensors, taken = len(whole.state_dict()), set[str]()

    def read(name: str) -> torch.Tensor:
        taken.add(name)
        on_progress(QUANTIZING, len(taken) / num_tensors)
        return _get(whole, name)

    weights = QuantizedWeights(read, dtype, device, chosen, dtype)
    note = f"{chosen.note}; while loading, the whole model was in memory, since {reason}"
    return whole, fill(whole, layout, weights, context), replace(chosen, note=note)


def read_dequantized(folder: Path, config: Any, chosen: ChosenQuantization, trust_remote_code: bool) -> PreTrainedModel:
    """A model that was saved in few bits, in full and in its own dtype, on the CPU. Errors of `read_quantized`."""
    dtype = config.get_text_config().dtype if hasattr(config, "dtype") else config.torch_dtype
    cpu = torch.device("cpu")
    model = empty_model(folder, config, dtype, trust_remote_code)
    layout = bridged_layout(model, chosen)
    chosen = chosen.fitted(layout, dtype, cpu)
    with Checkpoint(folder, dtype, cpu, lambda stage, fraction: None) as checkpoint:
        weights = QuantizedWeights(checkpoint.read, dtype, cpu, chosen, dtype)
        for name, own in model.state_dict(keep_vars=True).items():
            module = name.removesuffix(".weight")
            if module in chosen.matrices:
                tensor = weights.matrix(module).dense(dtype)
            elif layout.is_tied and module == layout.head:
                continue
            else:
                tensor = checkpoint.read(name)
            _require_shape(name, tensor.shape, own.shape)
            _put(model, name, nn.Parameter(tensor, requires_grad=False) if isinstance(own, nn.Parameter) else tensor)
    if layout.is_tied and layout.head not in chosen.matrices:
        _put(model, f"{layout.head}.weight", model.get_input_embeddings().weight)
    return model


def empty_model(folder: Path, config: Any, dtype: torch.dtype, trust_remote_code: bool) -> PreTrainedModel:
    """The model without its weights, which are on the device "meta"; buffers are real, on the CPU."""
    config = copy.deepcopy(config)
    vars(config).pop("quantization_config", None)
    try:
        with init_empty_weights(include_buffers=False):
            model = AutoModelForCausalLM.from_config(
                config, trust_remote_code=trust_remote_code, attn_implementation="eager", **{DTYPE_ARGUMENT: dtype}
            )
    except Exception as error:  # as above
        raise _unloadable(folder, error) from error
    model.tie_weights()
    return model.eval().requires_grad_(False)


def bridged_layout(model: PreTrainedModel, chosen: ChosenQuantization) -> ModelLayout:
    """Of the text model; what sees or hears beside it stays as it is.

    Raises:
        ConfigError: there is nothing in it to be quantized, or not all that is asked.
    """
    names = {module: name for name, module in model.named_modules()}
    table, head = model.get_input_embeddings(), model.get_output_embeddings()
    if type(head) is not nn.Linear:
        head = None
    linears = {
        name: (module.out_features, module.in_features)
        for module, name in names.items()
        if type(module) is nn.Linear and module is not head and is_of_text(name)
    }
    kind = model.config.model_type
    if not linears:
        raise ConfigError(
            f"quantization = {str(chosen.quantization)!r} cannot be used: model type {kind!r} has no linear layers of "
            "the usual kind; give 'none'"
        )
    if chosen.quantization.embeddings is not None and type(table) is not nn.Embedding:
        raise ConfigError(
            f"embeddings = {chosen.quantization.embeddings} cannot be used: model type {kind!r} has embeddings of its "
            f"own kind ({type(table).__name__}); leave them out"
        )
    num_rows, width = table.weight.shape
    is_tied = head is not None and head.weight is table.weight
    return ModelLayout(linears, names[table], None if head is None else names[head], (num_rows, width), is_tied)


def why_not_by_name(model: PreTrainedModel, layout: ModelLayout, names: Collection[str]) -> str | None:
    """The reason why the model's tensors are not those of the checkpoint, which has `names`; else None."""
    try:
        from transformers.conversion_mapping import get_model_conversion_mapping
    except ImportError:  # Transformers 4 renames only, and that shows below
        conversions = []
    else:
        conversions = get_model_conversion_mapping(model, add_legacy=False)
    if conversions:
        return f"Transformers rearranges the weights of model type {model.config.model_type!r}"
    wanted = set(model.state_dict()) - ({f"{layout.head}.weight"} if layout.is_tied else set())
    if missing := sorted(wanted - set(names)):
        return f"the checkpoint has no {missing[0]!r} by that name"
    return None


def fill(
    model: PreTrainedModel, layout: ModelLayout, weights: ModelWeights, context: StepContext
) -> dict[str, AdaptedLinear]:
    """Give the model its weights, on their device, and linears of ours in place of its own. Returns those by name.

    Raises:
        ModelError: a tensor's shape is not the model's.
    """
    linears: dict[str, AdaptedLinear] = {}
    for name, shape in layout.linears.items():
        linears[name] = weights.linear([name], _has_bias(model, name), context)
        _require_shape(name, linears[name].base.shape, shape)
        _put(model, name, linears[name])
    table = weights.embedding(layout.embedding)
    if layout.head is not None:
        tied_to = layout.embedding if layout.is_tied else None
        has_bias, of_rows = _has_bias(model, layout.head), keeps_rows(model)
        linears[layout.head] = weights.head(layout.head, tied_to, has_bias, context, of_rows=of_rows)
        _put(model, layout.head, linears[layout.head])
    if isinstance(table, DenseEmbedding):  # only now: a tied head may have been read from what is replaced here
        _put(model, f"{layout.embedding}.weight", table.weight)
    else:
        _put(model, layout.embedding, table)
    filled = tuple(f"{name}." for name in (*linears, layout.embedding))
    for name, own in model.state_dict(keep_vars=True).items():
        if not name.startswith(filled):
            tensor = weights.tensor(name)
            _require_shape(name, tensor.shape, own.shape)
            _put(model, name, nn.Parameter(tensor, requires_grad=False) if isinstance(own, nn.Parameter) else tensor)
    for name, buffer in list(model.named_buffers()):
        _put(model, name, buffer.to(weights.device))
    return linears


def keeps_rows(model: PreTrainedModel) -> bool:
    """Whether the model can be told whose logits are wanted, so that its head sees no other tokens."""
    return "logits_to_keep" in inspect.signature(model.forward).parameters


def _has_bias(model: PreTrainedModel, name: str) -> bool:
    return model.get_submodule(name).bias is not None


def _require_shape(name: str, found: Sequence[int], wanted: Sequence[int]) -> None:
    if tuple(found) != tuple(wanted):
        raise ModelError(
            f"{name} has the shape {tuple(found)} where config.json says {tuple(wanted)}; fetch the model again"
        )


def _get(model: PreTrainedModel, name: str) -> torch.Tensor:
    parent, _, attribute = name.rpartition(".")
    tensor: torch.Tensor = getattr(model.get_submodule(parent), attribute)
    return tensor.data


def _put(model: PreTrainedModel, name: str, value: Any) -> None:
    parent, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(parent), attribute, value)


def _unloadable(folder: Path, error: Exception) -> ModelError:
    consent = "trust_remote_code" in str(error)
    fix = "set trust_remote_code if you trust its code" if consent else "fetch it again or choose another model"
    return ModelError(f"the model in {folder} cannot be loaded: {first_line(error)}; {fix}")


def first_line(error: Exception) -> str:
    """What another library's error says, short enough to be quoted."""
    return f"{type(error).__name__}: {str(error).strip()}".splitlines()[0]
