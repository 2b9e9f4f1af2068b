"""From a model's name to something that runs: folder, configuration, tokenizer, weights, and what `auto` decided."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoConfig, AutoTokenizer, PreTrainedTokenizerFast
from transformers import __version__ as transformers_version

from mp13.engine.attention.registry import AttentionChoice, choose_attention
from mp13.engine.config import EngineConfig
from mp13.engine.context import StepContext
from mp13.engine.linear.base_weight import packs
from mp13.engine.models.decoder import Decoder
from mp13.engine.models.decoder_config import decoder_config, packed_by
from mp13.engine.models.fitting import out_of_memory_is_said, require_room
from mp13.engine.models.footprint import ModelShape, model_shape
from mp13.engine.models.interface import CausalModel
from mp13.engine.models.mistral_tokenizer import MistralTokenizer, mistral_tokenizer_file
from mp13.engine.models.model_files import tensor_shapes
from mp13.engine.models.model_layout import ChosenQuantization, choose_quantization, decoder_layout
from mp13.engine.models.quantized_weights import model_weights
from mp13.engine.models.source import ModelSource, open_source
from mp13.engine.models.support import ModelImpl, attention_need, choose_impl
from mp13.engine.models.weights import OnProgress, model_path
from mp13.engine.quantization import STORED_METHOD
from mp13.errors import ConfigError, ModelError


@dataclass(frozen=True)
class LoadedModel:
    model: CausalModel
    context: StepContext
    tokenizer: Any
    path: Path  # the folder or GGUF file
    shape: ModelShape
    model_type: str
    model_impl: str
    attention: AttentionChoice
    dtype: torch.dtype  # of the weights
    activation_dtype: torch.dtype  # of what is computed and cached
    device: torch.device
    quantization: str  # canonical
    max_position: int
    vocab_size: int
    eos_token_ids: frozenset[int]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Choices:
    """What `auto` became, before any weight is read."""

    hf_config: Any
    device: torch.device
    dtype: torch.dtype  # of the weights
    activation_dtype: torch.dtype
    impl: ModelImpl
    impl_reason: str
    attention: AttentionChoice
    quantization: ChosenQuantization | None


def check_model(config: EngineConfig) -> None:
    """Raises what `load_model` would, as far as it is known before weights are read. A model of the Hub, which may not
    be here yet, is taken to be good; whether there is room is not asked."""
    if Path(config.model).expanduser().exists():
        with open_source(model_path(config.model, lambda stage, fraction: None)) as source:
            _choose(config, source)


def load_model(config: EngineConfig, on_progress: OnProgress) -> LoadedModel:
    """Load `config.model` as the configuration says.

    Raises:
        ModelError: the model is missing, damaged, or of a kind that cannot run here.
        ConfigError, UnsupportedError: device, dtype or attention cannot be used with it.
    """
    with open_source(model_path(config.model, on_progress)) as source:
        return _load(config, source, on_progress)


def _load(config: EngineConfig, source: ModelSource, on_progress: OnProgress) -> LoadedModel:
    on_progress("tokenizer", None)
    choices = _choose(config, source)
    hf_config, device, dtype, impl = choices.hf_config, choices.device, choices.dtype, choices.impl
    activation_dtype, attention, chosen = choices.activation_dtype, choices.attention, choices.quantization
    tokenizer = _tokenizer(source, hf_config.model_type, config.trust_remote_code)
    text_config = hf_config.get_text_config()
    shape = model_shape(hf_config.to_dict(), None if source.gguf is not None else tensor_shapes(source.folder))
    if chosen is not None:  # the model itself may say so
        config = replace(config, quantization=str(chosen.quantization))
    require_room(config, shape, dtype, device)
    context = StepContext()
    model: CausalModel
    notes = [f"model_impl {impl}: {choices.impl_reason}", f"attention {attention.name}: {attention.reason}"]
    stored = "GGUF" if source.gguf is not None else packed_by(hf_config)
    if impl == "native" and stored not in (None, STORED_METHOD):
        notes.append(f"weights dequantized from {stored} to {str(dtype).removeprefix('torch.')}")
    if activation_dtype != dtype:
        notes.append("arithmetic float32: this CPU has no bfloat16 instructions; the weights stay at 16 bits")
    if impl == "native":
        read_to = device if chosen is None else torch.device("cpu")
        with out_of_memory_is_said(config, device), source.checkpoint(dtype, read_to, on_progress) as checkpoint:
            decoder = decoder_config(hf_config, has_head=checkpoint.has("lm_head.weight"))
            chosen = None if chosen is None else chosen.fitted(decoder_layout(decoder), dtype, device)
            weights = model_weights(checkpoint.read, activation_dtype, device, chosen, dtype)
            model = Decoder(decoder, weights, attention.function, context)
    else:
        from mp13.engine.models.transformers_bridge import TransformersModel

        on_progress("weights", None)
        with out_of_memory_is_said(config, device):
            model = bridged = TransformersModel.load(
                source.folder, hf_config, dtype, device, attention.function, context, config.block_size,
                config.trust_remote_code, chosen=chosen, on_progress=on_progress,
            )  # fmt: skip
        chosen = bridged.chosen
    return LoadedModel(
        model=model,
        context=context,
        tokenizer=tokenizer,
        path=source.path,
        shape=shape,
        model_type=hf_config.model_type,
        model_impl=impl,
        attention=attention,
        dtype=dtype,
        activation_dtype=activation_dtype,
        device=device,
        max_position=getattr(text_config, "max_position_embeddings", None) or 2048,
        quantization="none" if chosen is None else str(chosen.quantization.of_weights),
        vocab_size=text_config.vocab_size,
        eos_token_ids=_eos_token_ids(source.folder, hf_config, tokenizer),
        notes=(*notes, *([] if chosen is None else [chosen.note])),
    )


def _choose(config: EngineConfig, source: ModelSource) -> _Choices:
    _check_text_type(source)
    hf_config = _read(source, "config.json", AutoConfig, config.trust_remote_code)
    device = choose_device(config.device)
    dtype = choose_dtype(config.dtype, hf_config, device)
    impl, reason = choose_impl(hf_config, config.model_impl)
    if impl == "transformers" and source.gguf is not None:
        raise ModelError("model_impl = 'transformers' cannot read a GGUF file; choose 'auto' or 'native'")
    activation_dtype = torch.float32 if impl == "native" and packs(dtype, device) else dtype
    quantization = choose_quantization(config.quantization, hf_config)
    need = attention_need(hf_config, device, activation_dtype, config.block_size)
    attention = choose_attention(config.attn_implementation, need)
    return _Choices(hf_config, device, dtype, activation_dtype, impl, reason, attention, quantization)


def _tokenizer(source: ModelSource, model_type: str, trust_remote_code: bool) -> Any:
    """mistral-common's where it speaks for the model, else Transformers'."""
    if (file := mistral_tokenizer_file(source.folder, model_type)) is not None:
        return MistralTokenizer(file)
    # AutoTokenizer would put the rules that belong to the type of the model in place of those of the GGUF file
    kind = AutoTokenizer if source.gguf is None else PreTrainedTokenizerFast
    return _read(source, "tokenizer", kind, trust_remote_code)


def choose_device(name: str) -> torch.device:
    """ "auto" is the first CUDA GPU, else the CPU.

    Raises:
        ConfigError: no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
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


def _read(source: ModelSource, what: str, kind: Any, trust_remote_code: bool) -> Any:
    try:
        return kind.from_pretrained(source.folder, trust_remote_code=trust_remote_code, local_files_only=True)
    except Exception as error:  # Transformers raises many types; all mean that this folder cannot be used
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(f"{what} of {str(source.path)!r} cannot be read: {reason}") from None


def _check_text_type(source: ModelSource) -> None:
    """Transformers names a type that it does not know, but not the type of a text model within a larger one."""
    try:
        config = json.loads((source.folder / "config.json").read_text(encoding="utf-8"))
        kind = config["text_config"]["model_type"]
    except (OSError, ValueError, KeyError, TypeError):
        return  # there is none, or Transformers says what is wrong
    if kind not in CONFIG_MAPPING and "auto_map" not in config:
        raise ModelError(
            f"the text model in {source.path} is of type {str(kind)[:40]!r}, which Transformers {transformers_version} "
            "does not know; pip install -U transformers"
        )


def _eos_token_ids(folder: Path, hf_config: Any, tokenizer: Any) -> frozenset[int]:
    """Every id that any of the model's files names as the end of an answer."""
    named = [hf_config.get_text_config().eos_token_id, tokenizer.eos_token_id]
    generation = folder / "generation_config.json"
    if generation.is_file():
        try:
            named.append(json.loads(generation.read_text(encoding="utf-8")).get("eos_token_id"))
        except (ValueError, AttributeError) as error:
            raise ModelError(f"{generation} cannot be read ({error}); fetch the model again") from None
    ids: set[int] = set()
    for value in named:
        ids.update(value if isinstance(value, list) else [] if value is None else [value])
    return frozenset(ids)
