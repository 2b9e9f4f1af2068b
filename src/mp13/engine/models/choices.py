"""What a model's files and the settings together decide before any weight is read: device, dtype, implementation,
quantization, attention. What cannot be combined is refused here."""

import json
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoConfig
from transformers import __version__ as transformers_version

from mp13.engine.attention.registry import AttentionChoice, choose_attention
from mp13.engine.config import EngineConfig
from mp13.engine.linear.base_weight import packs
from mp13.engine.linear.hqq_import import import_hqq
from mp13.engine.models.decoder_config import packed_by
from mp13.engine.models.model_layout import ChosenQuantization, choose_quantization
from mp13.engine.models.source import ModelSource
from mp13.engine.models.support import ModelImpl, attention_need, choose_impl
from mp13.engine.quantization import STORED_METHOD
from mp13.errors import ConfigError, ModelError


@dataclass(frozen=True)
class Choices:
    """What every `auto` became. `quantization` is not fitted yet, which takes the layers' shapes."""

    hf_config: Any
    device: torch.device
    dtype: torch.dtype  # of the weights
    activation_dtype: torch.dtype  # of what is computed and cached
    impl: ModelImpl
    quantization: ChosenQuantization | None
    attention: AttentionChoice
    notes: tuple[str, ...]  # for a person to read


def choose(config: EngineConfig, source: ModelSource) -> Choices:
    """Raises:
    ModelError: the model's configuration cannot be read, or no implementation runs it.
    ConfigError, UnsupportedError: device, quantization or attention cannot be used with it.
    """
    hf_config = read_config(source, config.trust_remote_code)
    device = choose_device(config.device)
    dtype = choose_dtype(config.dtype, hf_config, device)
    impl, impl_reason = choose_impl(hf_config, config.model_impl)
    if impl == "transformers" and source.gguf is not None:
        fix = "choose 'auto' or 'native'" if config.model_impl == impl else "use this model's safetensors instead"
        raise ModelError(f"model_impl = 'transformers' ({impl_reason}) cannot read a GGUF file; {fix}")
    activation_dtype = torch.float32 if impl == "native" and packs(dtype, device) else dtype
    quantization = choose_quantization(config.quantization, hf_config)
    need = attention_need(hf_config, device, activation_dtype, config.block_size)
    attention = choose_attention(config.attn_implementation, need)
    notes = [f"model_impl {impl}: {impl_reason}", f"attention {attention.name}: {attention.reason}"]
    stored = "GGUF" if source.gguf is not None else packed_by(hf_config)
    if impl == "native" and stored not in (None, STORED_METHOD):
        notes.append(f"weights dequantized from {stored} to {str(dtype).removeprefix('torch.')}")
    if activation_dtype != dtype:
        notes.append("arithmetic float32: this CPU has no bfloat16 instructions; the weights stay at 16 bits")
    return Choices(hf_config, device, dtype, activation_dtype, impl, quantization, attention, tuple(notes))


def choose_device(name: str) -> torch.device:
    """ "auto" is the first CUDA GPU, else the CPU.

    Raises:
        ConfigError: no such device here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        if device.type == "cuda" and device.index is None:
            device = torch.device("cuda", torch.cuda.current_device())
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        raise ConfigError(f"device = {name!r} is not on this machine; give auto, cpu or cuda") from None
    return device


def choose_dtype(name: str, config: Any, device: torch.device) -> torch.dtype:
    """ "auto" is the checkpoint's own; on the CPU bfloat16 stands in for float16, which is slow there."""
    if name != "auto":
        named: torch.dtype = getattr(torch, name)
        return named
    parts = (config.get_text_config(), config)  # a larger model around the text may be the only one to say it
    said = [getattr(part, field, None) for part in parts for field in ("dtype", "torch_dtype")]
    dtype = next(filter(None, said), torch.float32)
    if isinstance(dtype, str):
        dtype = getattr(torch, dtype)
    return torch.bfloat16 if dtype == torch.float16 and device.type == "cpu" else dtype


def read_config(source: ModelSource, trust_remote_code: bool) -> Any:
    """Raises ModelError where there is none, or of a kind that is not known."""
    _check_text_type(source)
    with suppress(Exception):  # what is wrong with it, Transformers says, which imports it next
        import_hqq()
    return read_part(source, "config.json", AutoConfig, trust_remote_code)


def read_part(source: ModelSource, what: str, kind: Any, trust_remote_code: bool) -> Any:
    """Configuration or tokenizer, as Transformers' class `kind` reads it. Raises ModelError."""
    try:
        return kind.from_pretrained(source.folder, trust_remote_code=trust_remote_code, local_files_only=True)
    except Exception as error:  # Transformers raises many types; all mean that this folder cannot be used
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(f"{what} of {str(source.path)!r} cannot be read: {reason}") from None


def _check_text_type(source: ModelSource) -> None:
    """What Transformers does not say: that there is no configuration; the type of a text model within a larger one."""
    path = source.folder / "config.json"
    if not path.is_file():  # Transformers 4 would go by the folder's name, and find an MPT in "empty"
        raise ModelError(f"config.json of {str(source.path)!r} cannot be read: there is none; fetch the model again")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        kind = config["text_config"]["model_type"]
    except (OSError, ValueError, KeyError, TypeError):
        return  # there is no such part, or Transformers says what is wrong
    if kind not in CONFIG_MAPPING and "auto_map" not in config:
        raise ModelError(
            f"the text model in {source.path} is of type {str(kind)[:40]!r}, which Transformers {transformers_version} "
            "does not know; pip install -U transformers"
        )
