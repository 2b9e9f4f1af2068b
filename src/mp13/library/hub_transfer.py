"""Files of one commit of a repository, from the Hub to the disk. What was cut off, by a kill too, goes on where it was.

huggingface_hub knows addresses, tokens, proxies and retries. Its own downloads begin anew in every process, so the
partial files are ours.
"""

import hashlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from mp13.errors import Mp13Error
from mp13.hub_errors import hub_reason

Progress = Callable[[str, float | None], None]  # stage, share done if known
_PARTIAL = ".part"


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
    """Bring `files` into `folder`, under their names. An exception from `progress` ends it, too.

    Raises:
        kind: the Hub or the network stops it, or a file came damaged.
    """
    total = sum(file.size for file in files)

    def tell() -> None:
        progress("download", min(bytes_here(folder) / total, 0.999) if total else None)

    try:
        for file in files:
            _bring(repo, revision, file, folder, tell)
    except _DamagedError as error:
        raise kind(f"{repo} cannot be fetched: {error}; ask again") from None
    except Exception as error:  # network, authentication and disk errors have many types
        kept = "; what has come is kept, and the same command goes on" if bytes_here(folder) else ""
        raise kind(f"{repo} cannot be fetched: {hub_reason(error)}{kept}") from None
    progress("download", 1.0)


class _Telling(io.BufferedWriter):
    """Tells of every piece that is written: huggingface_hub's own progress differs from version to version."""

    def __init__(self, path: Path, tell: Callable[[], None]) -> None:
        super().__init__(io.FileIO(path, "ab"))
        self._tell = tell

    def write(self, piece: Any) -> int:
        written = super().write(piece)
        self._tell()
        return written


def _bring(repo: str, revision: str, file: RemoteFile, folder: Path, tell: Callable[[], None]) -> None:
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
        with _Telling(partial, tell) as stream:
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
