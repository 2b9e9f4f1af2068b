"""SHA-256 of large files, remembered by path, size and times, so that no start and no list waits for it.

What the digest of a model is made of is engine/models/digest.py's; an adapter's is defined here. No torch.
"""

import hashlib
import json
import os
import tempfile
import threading
from pathlib import Path

import platformdirs

_CHUNK = 4 << 20  # bytes


def file_digest(path: Path) -> str:
    """SHA-256 of the file's bytes.

    Raises:
        OSError: the file cannot be read.
    """
    return remembered_digest(path) or _remember(_place(path), _compute([path], framed=False))


def remembered_digest(*paths: Path) -> str | None:
    """What `file_digest` (one file) or `adapter_digest` (two) once computed for these files as they are; reads none."""
    try:
        return str(json.loads(_place(*paths).read_text())["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def adapter_digest(config: Path, weights: Path) -> str:
    """The digest that tells adapters apart: SHA-256 over the bytes of both files, each after its length (8 bytes, LE).

    Raises:
        OSError: a file cannot be read.
    """
    paths = (config, weights)
    return remembered_digest(*paths) or _remember(_place(*paths), _compute(paths, framed=True))


def _place(*paths: Path) -> Path:
    """Where the digest of these files, as they are now, is remembered."""
    stats = [(path.resolve(), path.stat()) for path in paths]
    # ctime, too: files copied with their time are all of one time and, adapters of one rank, of one size
    key = "\0".join(f"{path}\0{stat.st_size}\0{stat.st_mtime_ns}\0{stat.st_ctime_ns}" for path, stat in stats)
    name = hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()
    return Path(platformdirs.user_cache_dir("mp13")) / "digests" / f"{name}.json"


def _compute(paths: "tuple[Path, ...] | list[Path]", framed: bool) -> str:
    sha256 = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            if framed:
                sha256.update(os.fstat(file.fileno()).st_size.to_bytes(8, "little"))
            while chunk := file.read(_CHUNK):
                if not threading.main_thread().is_alive():
                    raise InterruptedError("the program ended before the file was hashed")
                sha256.update(chunk)
    return sha256.hexdigest()


def _remember(place: Path, digest: str) -> str:
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=place.parent, delete=False) as file:
            json.dump({"sha256": digest}, file)
        os.replace(file.name, place)
    except OSError:
        pass  # a cache that cannot be written costs time, nothing else
    return digest
