"""From a model's name to something that runs: folder, configuration, tokenizer, weights, and what `auto` decided."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoTokenizer

from mp13.engine.attention.registry import AttentionChoice, choose_attention
from mp13.engine.config import EngineConfig
from mp13.engine.context import StepContext
from mp13.engine.linear.base_weight import packs
from mp13.engine.models.decoder import Decoder
from mp13.engine.models.decoder_config import decoder_config
from mp13.engine.models.interface import CausalModel
from mp13.engine.models.model_layout import choose_quantization, decoder_layout
from mp13.engine.models.quantized_weights import open_weights
from mp13.engine.models.support import choose_impl, needs_softcap
from mp13.engine.models.weights import OnProgress, model_folder
from mp13.errors import ConfigError, ModelError


@dataclass(frozen=True)
class LoadedModel:
    model: CausalModel
    context: StepContext
    tokenizer: Any
    folder: Path
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


def load_model(config: EngineConfig, on_progress: OnProgress) -> LoadedModel:
    """Load `config.model` as the configuration says.

    Raises:
        ModelError: the model is missing, damaged, or of a kind that cannot run here.
        ConfigError, UnsupportedError: device, dtype or attention cannot be used with it.
    """
    folder = model_folder(config.model, on_progress)
    on_progress("tokenizer", None)
    hf_config = _read(folder, "config.json", AutoConfig, config.trust_remote_code)
    tokenizer = _read(folder, "tokenizer", AutoTokenizer, config.trust_remote_code)
    text_config = hf_config.get_text_config()
    device = choose_device(config.device)
    dtype = choose_dtype(config.dtype, text_config, device)
    impl, impl_reason = choose_impl(hf_config, config.model_impl)
    chosen = choose_quantization(config.quantization, hf_config)
    attention = choose_attention(config.attn_implementation, needs_softcap=needs_softcap(hf_config))
    context = StepContext()
    model: CausalModel
    activation_dtype = dtype
    notes = [f"model_impl {impl}: {impl_reason}", f"attention {attention.name}: {attention.reason}"]
    if impl == "native":
        if packs(dtype, device):
            activation_dtype = torch.float32
            notes.append("arithmetic float32: this CPU has no bfloat16 instructions; the weights stay at 16 bits")
        decoder = decoder_config(hf_config)
        chosen = None if chosen is None else chosen.fitted(decoder_layout(decoder), dtype, device)
        with open_weights(folder, dtype, activation_dtype, device, chosen, on_progress) as weights:
            model = Decoder(decoder, weights, attention.function, context)
    else:
        from mp13.engine.models.transformers_bridge import TransformersModel

        on_progress("weights", None)
        model = bridged = TransformersModel.load(
            folder, hf_config, dtype, device, attention.function, context, config.trust_remote_code,
            chosen=chosen, on_progress=on_progress,
        )  # fmt: skip
        chosen = bridged.chosen
    return LoadedModel(
        model=model,
        context=context,
        tokenizer=tokenizer,
        folder=folder,
        model_type=hf_config.model_type,
        model_impl=impl,
        attention=attention,
        dtype=dtype,
        activation_dtype=activation_dtype,
        device=device,
        max_position=getattr(text_config, "max_position_embeddings", None) or 2048,
        quantization="none" if chosen is None else str(chosen.quantization.of_weights),
        vocab_size=text_config.vocab_size,
        eos_token_ids=_eos_token_ids(folder, hf_config, tokenizer),
        notes=(*notes, *([] if chosen is None else [chosen.note])),
    )


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


def choose_dtype(name: str, text_config: Any, device: torch.device) -> torch.dtype:
    """ "auto" is the checkpoint's own; on the CPU bfloat16 stands in for float16, which is slow there."""
    if name != "auto":
        named: torch.dtype = getattr(torch, name)
        return named
    dtype = getattr(text_config, "dtype", None) or getattr(text_config, "torch_dtype", None) or torch.float32
    if isinstance(dtype, str):
        dtype = getattr(torch, dtype)
    return torch.bfloat16 if dtype == torch.float16 and device.type == "cpu" else dtype


def _read(folder: Path, what: str, kind: Any, trust_remote_code: bool) -> Any:
    try:
        return kind.from_pretrained(folder, trust_remote_code=trust_remote_code, local_files_only=True)
    except Exception as error:  # Transformers raises many types; all mean that this folder cannot be used
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(f"{what} of {str(folder)!r} cannot be read: {reason}") from None


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
