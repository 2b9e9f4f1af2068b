"""A model's tokenizer, and the tokens at which its answers end. Its weights are not read for it."""

import json
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerFast

from mp13.engine.models.choices import read_part
from mp13.engine.models.mistral_tokenizer import MistralTokenizer, mistral_tokenizer_file
from mp13.engine.models.source import ModelSource
from mp13.errors import ModelError


def read_tokenizer(source: ModelSource, hf_config: Any, trust_remote_code: bool) -> Any:
    """mistral-common's where it speaks for the model, else Transformers'. Raises ModelError."""
    if (file := mistral_tokenizer_file(source.folder, hf_config.model_type)) is not None:
        return MistralTokenizer(file)
    # AutoTokenizer would put the rules that belong to the type of the model in place of those of the GGUF file
    kind = AutoTokenizer if source.gguf is None else PreTrainedTokenizerFast
    return read_part(source, "tokenizer", kind, trust_remote_code)


def eos_token_ids(folder: Path, hf_config: Any, tokenizer: Any) -> frozenset[int]:
    """Every id that any of the model's files names as the end of an answer. Raises ModelError."""
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
