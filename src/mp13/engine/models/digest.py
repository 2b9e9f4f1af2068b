"""The digest of a model's content. Its files' digests are remembered, so that a start rarely computes one. No torch."""

import hashlib
from pathlib import Path

from mp13.digests import file_digest, remembered_digest
from mp13.engine.models.model_files import weight_files


def base_digest(folder: Path) -> str:
    """SHA-256 over the SHA-256 of config.json and of each weight file, in order of name."""
    return _joined([file_digest(path) for path in _files(folder)])


def remembered_base_digest(folder: Path) -> str | None:
    """The same if nothing has to be hashed for it, else None.

    Raises:
        ModelError: the folder holds no whole model.
    """
    known = [remembered_digest(path) for path in _files(folder)]
    return _joined([digest for digest in known if digest is not None]) if None not in known else None


def _files(folder: Path) -> list[Path]:
    return [folder / "config.json", *weight_files(folder)]


def _joined(digests: list[str]) -> str:
    return hashlib.sha256(b"".join(map(bytes.fromhex, digests))).hexdigest()
