"""Writes a model's folder anew with its weights in few bits, one tensor at a time.

The codes are those that loading the model with the same setting would find, so the two say the same.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoConfig

from mp13.engine.config import EngineConfig
from mp13.engine.models.bridged_loading import bridged_layout, empty_model, why_not_by_name
from mp13.engine.models.choices import choose_device, choose_dtype, read_part
from mp13.engine.models.decoder_config import decoder_config
from mp13.engine.models.fp8 import is_scale
from mp13.engine.models.gguf_checkpoint import GGUFCheckpoint
from mp13.engine.models.model_files import carry_files, weight_files
from mp13.engine.models.model_layout import (
    ChosenQuantization,
    ModelLayout,
    choose_quantization,
    decoder_layout,
    stored_config,
)
from mp13.engine.models.progress import as_quantizing
from mp13.engine.models.quantized_weights import QuantizedWeights, stored_names
from mp13.engine.models.source import ModelSource, open_source
from mp13.engine.models.support import choose_impl
from mp13.engine.models.weights import Checkpoint, model_path
from mp13.engine.quantizing.request import QuantizeReport, QuantizeRequest
from mp13.engine.request import OnProgress
from mp13.errors import ConfigError, ModelError

_SHARD_BYTES = 2 << 30
Tensors = Iterator[tuple[str, torch.Tensor]]


def quantize_folder(request: QuantizeRequest, on_progress: OnProgress) -> QuantizeReport:
    """Fill the folder `request.out`, which is there and empty.

    Raises:
        ModelError, ConfigError, UnsupportedError: it cannot be done; what is in the folder is worthless then.
    """
    config = EngineConfig(request.model, dtype=request.dtype, device=request.device, quantization=request.quantization)
    with open_source(model_path(request.model, on_progress)) as source:
        return _quantize(source, config, request, on_progress)


def _quantize(
    source: ModelSource, config: EngineConfig, request: QuantizeRequest, on_progress: OnProgress
) -> QuantizeReport:
    folder, out = source.folder, Path(request.out)
    hf_config = read_part(source, "config.json", AutoConfig, request.trust_remote_code)
    device = choose_device(config.device)
    dtype = choose_dtype(config.dtype, hf_config, device)
    chosen = choose_quantization(config.quantization, hf_config)
    assert chosen is not None
    if chosen.is_stored:
        raise ConfigError(f"{source.path} is quantized already; give the model that it was made from")
    with source.checkpoint(dtype, torch.device("cpu"), as_quantizing(on_progress)) as checkpoint:
        if choose_impl(hf_config, "auto")[0] == "native":
            layout = decoder_layout(decoder_config(hf_config, has_head=checkpoint.has("lm_head.weight")))
        else:
            model = empty_model(folder, hf_config, dtype, request.trust_remote_code)
            layout = bridged_layout(model, chosen)
            if (reason := why_not_by_name(model, layout, checkpoint.names)) is not None:
                raise ModelError(
                    f"{source.path} cannot be saved quantized: {reason}; quantize it while loading instead"
                )
        chosen = chosen.fitted(layout, dtype, device)
        _write_shards(out, _tensors(checkpoint, layout, chosen, dtype, device))
    own = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    own |= {"torch_dtype": str(dtype).removeprefix("torch."), "quantization_config": stored_config(chosen.quantization)}
    own.pop("dtype", None)
    (out / "config.json").write_text(json.dumps(own, indent=2) + "\n", encoding="utf-8")
    carry_files(folder, out, code_too=request.trust_remote_code)
    base_files = weight_files(folder) if source.gguf is None else [source.path]
    return QuantizeReport(
        path=request.out,
        quantization=str(chosen.quantization.of_weights),
        dtype=str(dtype).removeprefix("torch."),
        size_bytes=sum(path.stat().st_size for path in weight_files(out)),
        base_bytes=sum(path.stat().st_size for path in base_files),
    )


def _tensors(
    checkpoint: Checkpoint | GGUFCheckpoint,
    layout: ModelLayout,
    chosen: ChosenQuantization,
    dtype: torch.dtype,
    device: torch.device,
) -> Tensors:
    """Everything that a quantized model consists of, on the CPU."""
    weights = QuantizedWeights(checkpoint.read, dtype, device, chosen, dtype)
    tied = f"{layout.head}.weight" if layout.is_tied else None
    for name in checkpoint.names:
        if name.removesuffix(".weight") not in chosen.matrices and name != tied and not is_scale(name):
            yield name, checkpoint.read(name)
    for module in chosen.matrices:
        source = layout.embedding if layout.is_tied and module == layout.head else None
        tensor = weights.matrix(module, source)
        for name, part in zip(stored_names(module), (tensor.packed, tensor.scale, tensor.zero), strict=True):
            yield name, part.cpu()


def _write_shards(folder: Path, tensors: Tensors) -> None:
    """Under names of our own and without an index, so that no other loader takes the folder for a model in full: those
    of Transformers would pass over what they don't know and make the rest up."""
    held: dict[str, torch.Tensor] = {}
    num_files = 0

    def write() -> None:
        nonlocal num_files
        num_files += 1
        save_file(held, folder / f"quantized-{num_files:05}.safetensors", metadata={"format": "pt"})
        held.clear()

    for name, tensor in tensors:
        held[name] = tensor.contiguous()
        if sum(t.numel() * t.element_size() for t in held.values()) >= _SHARD_BYTES:
            write()
    if held:
        write()
