"""SHA-256 of a model's weights, remembered by path, size and time of change, so that a start rarely computes it."""

import hashlib
import json
import os
import tempfile
import threading
from pathlib import Path

import platformdirs

from mp13.engine.models.weights import weight_files

_CHUNK = 4 << 20  # bytes


def base_digest(folder: Path) -> str:
    """SHA-256 over the SHA-256 of config.json and of each weight file, in order of name."""
    files = [folder / "config.json", *weight_files(folder)]
    return hashlib.sha256(b"".join(bytes.fromhex(_file_digest(path.resolve())) for path in files)).hexdigest()


def _file_digest(path: Path) -> str:
    stat = path.stat()
    key = hashlib.sha256(f"{path}\0{stat.st_size}\0{stat.st_mtime_ns}".encode()).hexdigest()
    remembered = Path(platformdirs.user_cache_dir("mp13")) / "digests" / f"{key}.json"
    try:
        return str(json.loads(remembered.read_text())["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    sha256 = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            if not threading.main_thread().is_alive():
                raise InterruptedError("the program ended before its model was hashed")
            sha256.update(chunk)
    _remember(remembered, sha256.hexdigest())
    return sha256.hexdigest()


def _remember(path: Path, digest: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
            json.dump({"sha256": digest}, file)
        os.replace(file.name, path)
    except OSError:
        return  # a cache that cannot be written costs time, nothing else
