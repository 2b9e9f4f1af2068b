"""The digest of a model's content. Its files' digests are remembered, so that a start rarely computes one. No torch."""

import hashlib
from pathlib import Path

from mp13.digests import file_digest, remembered_digest
from mp13.engine.models.model_files import gguf_file, weight_files


def base_digest(model: Path) -> str:
    """SHA-256 over the SHA-256 of config.json and of each weight file, in order of name; or of the one GGUF file."""
    return _joined([file_digest(path) for path in _files(model)])


def remembered_base_digest(model: Path) -> str | None:
    """The same if nothing has to be hashed for it, else None.

    Raises:
        ModelError: there is no whole model.
    """
    known = [remembered_digest(path) for path in _files(model)]
    return _joined([digest for digest in known if digest is not None]) if None not in known else None


def _files(model: Path) -> list[Path]:
    gguf = gguf_file(model)
    return [model / "config.json", *weight_files(model)] if gguf is None else [gguf]


def _joined(digests: list[str]) -> str:
    return hashlib.sha256(b"".join(map(bytes.fromhex, digests))).hexdigest()
