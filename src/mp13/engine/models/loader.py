"""From a model's name to something that runs: tokenizer, weights, and the model built of them. What `auto` became is
decided in choices.py."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from mp13.engine.attention.registry import AttentionChoice
from mp13.engine.config import EngineConfig
from mp13.engine.context import StepContext
from mp13.engine.models.choices import Choices, choose, read_part
from mp13.engine.models.decoder import Decoder
from mp13.engine.models.decoder_config import decoder_config
from mp13.engine.models.fitting import out_of_memory_is_said, require_room
from mp13.engine.models.footprint import ModelShape, model_shape
from mp13.engine.models.interface import CausalModel
from mp13.engine.models.mistral_tokenizer import MistralTokenizer, mistral_tokenizer_file
from mp13.engine.models.model_layout import ChosenQuantization, decoder_layout
from mp13.engine.models.progress import READING, as_quantizing
from mp13.engine.models.quantized_weights import model_weights
from mp13.engine.models.source import ModelSource, open_source
from mp13.engine.models.weights import model_path
from mp13.engine.request import OnProgress
from mp13.errors import ModelError


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


def check_model(config: EngineConfig) -> None:
    """Raises what `load_model` would, as far as it is known before weights are read. A model of the Hub, which may not
    be here yet, is taken to be good; whether there is room is not asked."""
    if Path(config.model).expanduser().exists():
        with open_source(model_path(config.model, lambda stage, fraction: None)) as source:
            choose(config, source)


def load_model(config: EngineConfig, on_progress: OnProgress) -> LoadedModel:
    """Load `config.model` as the configuration says.

    Raises:
        ModelError: the model is missing, damaged, of a kind that cannot run here, or larger than the memory.
        ConfigError, UnsupportedError: device, dtype, quantization or attention cannot be used with it.
    """
    with open_source(model_path(config.model, on_progress)) as source:
        return _load(config, source, on_progress)


def _load(config: EngineConfig, source: ModelSource, on_progress: OnProgress) -> LoadedModel:
    choices = choose(config, source)
    hf_config, device = choices.hf_config, choices.device
    on_progress("reading the tokenizer", None)
    tokenizer = _tokenizer(source, hf_config.model_type, config.trust_remote_code)
    shape = model_shape(hf_config.to_dict(), source.tensor_shapes(), source.num_bytes())
    require_room(config, shape, _quantization(choices.quantization), choices.dtype, device)
    context = StepContext()
    with out_of_memory_is_said(config, device):
        build = _native if choices.impl == "native" else _bridged
        model, quantization = build(config, choices, source, context, on_progress)
    text_config = hf_config.get_text_config()
    return LoadedModel(
        model=model,
        context=context,
        tokenizer=tokenizer,
        path=source.path,
        shape=shape,
        model_type=hf_config.model_type,
        model_impl=choices.impl,
        attention=choices.attention,
        dtype=choices.dtype,
        activation_dtype=choices.activation_dtype,
        device=device,
        quantization=_quantization(quantization),
        max_position=getattr(text_config, "max_position_embeddings", None) or 2048,
        vocab_size=text_config.vocab_size,
        eos_token_ids=_eos_token_ids(source.folder, hf_config, tokenizer),
        notes=(*choices.notes, *([] if quantization is None else [quantization.note])),
    )


def _native(
    config: EngineConfig, choices: Choices, source: ModelSource, context: StepContext, on_progress: OnProgress
) -> tuple[CausalModel, ChosenQuantization | None]:
    """The model, and how it is quantized now that its layers are known."""
    chosen, device, dtype = choices.quantization, choices.device, choices.dtype
    if chosen is not None and not chosen.is_stored:
        on_progress = as_quantizing(on_progress)
    with source.checkpoint(dtype, device if chosen is None else torch.device("cpu"), on_progress) as checkpoint:
        layout = decoder_config(choices.hf_config, has_head=checkpoint.has("lm_head.weight"))
        chosen = None if chosen is None else chosen.fitted(decoder_layout(layout), dtype, device)
        weights = model_weights(checkpoint.read, choices.activation_dtype, device, chosen, dtype)
        return Decoder(layout, weights, choices.attention.function, context), chosen


def _bridged(
    config: EngineConfig, choices: Choices, source: ModelSource, context: StepContext, on_progress: OnProgress
) -> tuple[CausalModel, ChosenQuantization | None]:
    """As `_native`."""
    from mp13.engine.models.transformers_bridge import TransformersModel

    on_progress(READING, None)
    model = TransformersModel.load(
        source.folder,
        choices.hf_config,
        choices.dtype,
        choices.device,
        choices.attention.function,
        context,
        config.block_size,
        config.trust_remote_code,
        chosen=choices.quantization,
        on_progress=on_progress,
    )
    return model, model.chosen


def _quantization(chosen: ChosenQuantization | None) -> str:
    return "none" if chosen is None else str(chosen.quantization.of_weights)


def _tokenizer(source: ModelSource, model_type: str, trust_remote_code: bool) -> Any:
    """mistral-common's where it speaks for the model, else Transformers'."""
    if (file := mistral_tokenizer_file(source.folder, model_type)) is not None:
        return MistralTokenizer(file)
    # AutoTokenizer would put the rules that belong to the type of the model in place of those of the GGUF file
    kind = AutoTokenizer if source.gguf is None else PreTrainedTokenizerFast
    return read_part(source, "tokenizer", kind, trust_remote_code)


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
