"""Files of one commit of a repository, from the Hub to the disk. What was cut off, by a kill too, goes on where it was.

huggingface_hub knows addresses, tokens, proxies and retries. Its own downloads begin anew in every process, so the
partial files are ours.
"""

import hashlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from mp13.errors import Mp13Error
from mp13.hub_errors import hub_reason

Progress = Callable[[str, float | None], None]  # stage, share done if known
_PARTIAL = ".part"
_LOOKS_S = 0.2  # between two looks at how much has come


@dataclass(frozen=True)
class RemoteFile:
    """`path` is the repository's. The Hub announces the SHA-256 of large files, and git's checksum of small ones."""

    path: str
    size: int
    sha256: str | None = None
    git_sha1: str | None = None

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]


class _DamagedError(Exception):
    """What came is not what the Hub announced."""


def bytes_here(folder: Path) -> int:
    """How much of a download has come to `folder`."""
    try:
        return sum(path.stat().st_size for path in folder.iterdir())
    except OSError:  # no folder yet, or a file was renamed under the look
        return 0


def transfer(
    repo: str, revision: str, files: Sequence[RemoteFile], folder: Path, progress: Progress, kind: type[Mp13Error]
) -> None:
    """Bring `files` into `folder`, under their names.

    Raises:
        kind: the Hub or the network stops it, or a file came damaged.
    """
    done = threading.Event()
    watcher = threading.Thread(target=_watch, args=(folder, sum(f.size for f in files), progress, done), daemon=True)
    watcher.start()
    try:
        for file in files:
            _bring(repo, revision, file, folder)
    except _DamagedError as error:
        raise kind(f"{repo} cannot be fetched: {error}; ask again") from None
    except Exception as error:  # network, authentication and disk errors have many types
        kept = "; what has come is kept, and the same command goes on" if bytes_here(folder) else ""
        raise kind(f"{repo} cannot be fetched: {hub_reason(error)}{kept}") from None
    finally:
        done.set()
        watcher.join()
    progress("download", 1.0)


def _bring(repo: str, revision: str, file: RemoteFile, folder: Path) -> None:
    from huggingface_hub import hf_hub_url, utils
    from huggingface_hub.file_download import http_get

    target, partial = folder / file.name, folder / (file.name + _PARTIAL)
    if target.exists():
        return
    come = partial.stat().st_size if partial.exists() else 0
    if come > file.size:
        partial.unlink()
        come = 0
    if come < file.size or not file.size:
        with partial.open("ab") as stream:
            http_get(
                hf_hub_url(repo, file.path, revision=revision),
                stream,
                resume_size=come,
                headers=cast(Any, utils).build_hf_headers(),
                expected_size=file.size,
            )
    _check(file, partial)
    partial.rename(target)


def _check(file: RemoteFile, partial: Path) -> None:
    size = partial.stat().st_size
    if size != file.size:
        partial.unlink()
        raise _DamagedError(f"{file.name} came with {size} bytes of {file.size}")
    with partial.open("rb") as stream:
        if file.sha256 is not None:
            announced, came = file.sha256, hashlib.file_digest(stream, "sha256").hexdigest()
        else:
            announced = file.git_sha1 or ""
            came = hashlib.sha1(b"blob %d\0" % size + stream.read()).hexdigest() if announced else ""
    if came != announced:
        partial.unlink()
        raise _DamagedError(f"{file.name} came damaged (its checksum is {came}, announced was {announced})")


def _watch(folder: Path, total: int, progress: Progress, done: threading.Event) -> None:
    """Tell how much has come until `done`; what huggingface_hub tells by itself differs from version to version."""
    while not done.wait(_LOOKS_S):
        progress("download", min(bytes_here(folder) / total, 0.999) if total else None)
