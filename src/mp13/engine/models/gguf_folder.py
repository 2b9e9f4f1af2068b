"""Everything in a GGUF file but its weights, written as the files that Transformers reads. No torch."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from mp13.engine.models.gguf_config import model_config
from mp13.engine.models.gguf_file import GGUFFile
from mp13.engine.models.gguf_tokenizer import tokenizer_config, tokenizer_json
from mp13.errors import ModelError

_TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")


class GGUFSettings(NamedTuple):
    """Contents of config.json, tokenizer.json and tokenizer_config.json."""

    config: dict[str, Any]
    tokenizer: dict[str, Any]
    tokenizer_config: dict[str, Any]


def read_settings(file: GGUFFile) -> GGUFSettings:
    """Raises ModelError where the model or its tokenizer is of a kind that cannot run here."""
    try:
        config = model_config(file)
        tokenizer = tokenizer_json(file.metadata)
        if len(tokens := file.metadata["tokenizer.ggml.tokens"]) > config["vocab_size"]:
            raise ModelError(f"it has {len(tokens)} tokens and embeddings for {config['vocab_size']}")
        return GGUFSettings(config, tokenizer, tokenizer_config(file.metadata, config["max_position_embeddings"]))
    except ModelError as error:
        raise ModelError(f"{file.path} cannot run here: {error}; use this model's safetensors instead") from None


def write_settings(file: GGUFFile, folder: Path) -> dict[str, Any]:
    """Write configuration, tokenizer and chat template into `folder`. Returns the content of config.json.

    Raises:
        ModelError: as `read_settings`.
    """
    config, tokenizer, settings = read_settings(file)
    _write(folder / "config.json", config)
    _write(folder / "generation_config.json", {name: config[name] for name in _TOKEN_IDS if name in config})
    _write(folder / "tokenizer.json", tokenizer, indent=None)
    _write(folder / "tokenizer_config.json", settings)
    return config


def _write(path: Path, content: dict[str, Any], indent: int | None = 2) -> None:
    path.write_bytes((json.dumps(content, indent=indent, ensure_ascii=False) + "\n").encode())
