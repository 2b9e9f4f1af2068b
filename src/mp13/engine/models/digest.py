"""The digest of a model's content. Its files' digests are remembered, so that a start rarely computes one. No torch."""

import hashlib
from pathlib import Path

from mp13.digests import file_digest
from mp13.engine.models.model_files import weight_files


def base_digest(folder: Path) -> str:
    """SHA-256 over the SHA-256 of config.json and of each weight file, in order of name."""
    files = [folder / "config.json", *weight_files(folder)]
    return hashlib.sha256(b"".join(bytes.fromhex(file_digest(path)) for path in files)).hexdigest()
