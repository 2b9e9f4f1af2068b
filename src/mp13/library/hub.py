"""Repositories of the Hugging Face Hub: what a text means there, and their files at one pinned commit. No torch.

Only what a caller chooses is fetched, and no caller chooses a pickle or code; the transfer itself is hub_transfer.py's.
huggingface_hub is imported with the first use: it takes a while.
"""

import hashlib
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from mp13.errors import AdapterError, Mp13Error
from mp13.hub_errors import hub_reason
from mp13.library.hub_transfer import Progress, RemoteFile, bytes_here, transfer
from mp13.library.paths import given_path
from mp13.library.placing import DOWNLOADS, readable_errors

_PART = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_PLACE = re.compile(
    rf"(?P<repo>{_PART}/{_PART})(?P<folder>(?:/{_PART})*)(?:@(?P<revision>[A-Za-z0-9][A-Za-z0-9._/-]*))?"
)
_URL = re.compile(r"https?://(?:huggingface\.co|hf\.co)/(.+?)/?")
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class HubPlace:
    """A repository, or a folder in it; `revision` is a branch, tag or commit, None the main branch."""

    repo: str
    folder: str = ""
    revision: str | None = None

    @property
    def name(self) -> str:
        return (self.folder or self.repo).rpartition("/")[2]

    @property
    def text(self) -> str:
        """Without the revision."""
        return f"{self.repo}/{self.folder}" if self.folder else self.repo

    @property
    def written(self) -> str:
        return f"{self.text}@{self.revision}" if self.revision else self.text


@dataclass(frozen=True)
class Listing:
    """What is there. `files` are the place's own with their bytes, `paths` all of the repository's."""

    place: HubPlace
    files: dict[str, int]
    paths: tuple[str, ...]


@dataclass(frozen=True)
class Fetched:
    """`folder` holds the chosen files; `revision` is the commit they are of."""

    folder: Path
    revision: str


def is_path(text: str) -> bool:
    """Whether `text` is written as a path, and so can mean nothing else."""
    return text.startswith((".", "~", "/", "\\")) or "\\" in text or Path(text).is_absolute()


def parse_place(text: str) -> HubPlace | Path:
    """A folder that exists or is written as one, else a place of the Hub if it can be one."""
    path = given_path(text)
    if is_path(text) or path.exists():
        return path
    if url := _URL.fullmatch(text):
        repo, tree, rest = url[1].partition("/tree/")
        revision, _, folder = rest.partition("/")
        text = repo + (f"/{folder}" if folder else "") + (f"@{revision}" if tree else "")
    match = _PLACE.fullmatch(text)
    return HubPlace(match["repo"], match["folder"].strip("/"), match["revision"]) if match else path


@contextmanager
def fetched(
    place: HubPlace,
    choose: Callable[[Listing], list[str]],
    library: Path,
    progress: Progress,
    kind: type[Mp13Error] = AdapterError,
) -> Iterator[Fetched]:
    """The files that `choose` names of `place`, in a folder beside the library's own that is gone afterwards.

    Where the Hub cannot be reached, the Hugging Face cache is looked into.

    Raises:
        kind: the Hub does not give them, or the disk does not take them; and what `choose` raises.
    """
    import huggingface_hub
    from huggingface_hub import utils

    untyped: Any = utils
    untyped.disable_progress_bars()
    untyped.logging.set_verbosity_error()
    progress("asking the Hub", None)
    try:
        info = huggingface_hub.HfApi().model_info(place.repo, revision=place.revision, files_metadata=True)
    except Exception as error:  # network, authentication and validation errors have many types
        if (cached := _in_cache(place)) is None:
            reason = hub_reason(error)
            raise kind(f"{place.written} is no folder here and not to be had from the Hub: {reason}") from None
        sizes = {path.relative_to(cached.folder).as_posix(): path.stat().st_size for path in cached.folder.rglob("*")}
        choose(_listing(HubPlace(place.text), sizes))
        yield cached
        return
    remote = {file.path: file for file in map(_remote_file, info.siblings or ())}
    chosen = choose(_listing(place, {path: file.size for path, file in remote.items()}))
    files = [remote[f"{place.folder}/{name}" if place.folder else name] for name in chosen]
    with readable_errors(kind), _staged(place, str(info.sha), library, kind) as folder:
        _check_space(place, sum(file.size for file in files) - bytes_here(folder), folder, kind)
        transfer(place.repo, str(info.sha), files, folder, progress, kind)
        yield Fetched(folder, str(info.sha))


@contextmanager
def _staged(place: HubPlace, revision: str, library: Path, kind: type[Mp13Error]) -> Iterator[Path]:
    """A folder that is the same for the same files, and stays when something goes wrong; one process at a time."""
    key = hashlib.sha256(f"{place.text}@{revision}".encode()).hexdigest()[:24]
    holder = library / f"{DOWNLOADS}{key}"
    (holder / "files").mkdir(parents=True, exist_ok=True)
    holder.touch()  # it is not abandoned
    try:
        with FileLock(holder / "lock", timeout=0):
            yield holder / "files"
    except Timeout:
        raise kind(f"another mp13 is fetching {place.text}; wait until it is done") from None
    shutil.rmtree(holder, ignore_errors=True)


def _remote_file(sibling: Any) -> RemoteFile:
    """What huggingface_hub says of a file. Of a large one, git's checksum is only that of a pointer to it."""
    if sibling.lfs is None:
        return RemoteFile(sibling.rfilename, sibling.size or 0, git_sha1=sibling.blob_id)
    return RemoteFile(sibling.rfilename, sibling.size or 0, sha256=sibling.lfs.sha256)


def _listing(place: HubPlace, sizes: dict[str, int]) -> Listing:
    start = f"{place.folder}/" if place.folder else ""
    own = {path[len(start) :]: size for path, size in sizes.items() if path.startswith(start)}
    plain = {name: size for name, size in own.items() if Path(name).name == name}  # no path, on Windows neither
    return Listing(place, plain, tuple(sorted(sizes)))


def _in_cache(place: HubPlace) -> Fetched | None:
    """The place in the Hugging Face cache; None if it isn't there."""
    import huggingface_hub

    try:
        found = Path(huggingface_hub.snapshot_download(place.repo, revision=place.revision, local_files_only=True))
    except Exception:  # not there, or a repository that cannot be
        return None
    folder = found / place.folder
    return Fetched(folder, found.name) if folder.is_dir() and _COMMIT.fullmatch(found.name) else None


def _check_space(place: HubPlace, needed: int, folder: Path, kind: type[Mp13Error]) -> None:
    if (free := shutil.disk_usage(folder).free) < needed:
        raise kind(
            f"{place.text} takes {needed / 1e9:.1f} GB and the disk of {folder} has {free / 1e9:.1f} GB free; "
            "free some space, or set MP13_DATA_DIR to another disk"
        )
