"""How a folder comes into the library and goes: staged beside its place, moved in one step, one change at a time."""

import errno
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from mp13.errors import AdapterError, MixError, Mp13Error
from mp13.mix import check_name

_STAGED, _GONE = ".add-", ".removed-"
DOWNLOADS, MERGES = ".download-", ".merge-"
_LOCK_S = 10.0
_ABANDONED_S = 7 * 24 * 3600.0  # staged folders, left by a kill, that nobody goes on with


def check_new_name(name: str) -> str:
    """`name` if an adapter in the library may be called so.

    Raises:
        MixError: it cannot name an adapter, or lists would pass over it.
    """
    if check_name(name).startswith("."):
        raise MixError(f"{name!r} begins with a dot, which hides a folder; choose another name")
    return name


@contextmanager
def changing(library: Path) -> Iterator[None]:
    """One change of `library` at a time. What earlier ones left behind is cleared away.

    Raises:
        AdapterError: another process is at it and does not end.
    """
    library.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(library / ".lock", timeout=_LOCK_S, mode=0o600):
            _sweep(library)
            yield
    except Timeout:
        raise AdapterError(f"another mp13 is changing {library}; try again when it is done") from None


@contextmanager
def staging(library: Path) -> Iterator[Path]:
    """A folder on the library's disk, out of sight of lists, gone afterwards."""
    library.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=library, prefix=_STAGED) as temporary:
        yield Path(temporary)


def place(made: Path, target: Path, library: Path, replace_it: bool, taken: Mp13Error) -> None:
    """Move `made` to `target` in `library`. What is there is replaced or, without `replace_it`, `taken` is raised."""
    with changing(library):
        target.parent.mkdir(exist_ok=True)
        if target.exists() or target.is_symlink():
            if not replace_it:
                raise taken
            swap(made, target, library)
        else:
            made.rename(target)


def swap(made: Path, target: Path, library: Path) -> None:
    """Let `made` take the place of `target`, which is deleted; where it cannot, `target` stays. Within `changing`."""
    old = _aside(target, library)
    try:
        made.rename(target)
    except OSError:
        old.rename(target)
        raise
    _delete(old)


def discard(target: Path, library: Path) -> None:
    """Take `target` away in one step, then delete it. Of a link, only the link goes."""
    if target.is_symlink():
        target.unlink()
    else:
        _delete(_aside(target, library))


@contextmanager
def readable_errors(kind: type[Mp13Error] = AdapterError) -> Iterator[None]:
    """What the disk refuses becomes a sentence."""
    try:
        yield
    except OSError as error:
        where = error.filename2 or error.filename or "the library"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise kind(f"the disk of {where} is full; free some space, or set MP13_DATA_DIR to another") from None
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise kind(f"{where} may not be read or changed ({error.strerror}); check its permissions") from None
        raise kind(f"{where}: {error.strerror or error}; nothing was changed") from None


def _aside(target: Path, library: Path) -> Path:
    """Move `target` to where lists pass over it."""
    holder = Path(tempfile.mkdtemp(dir=library, prefix=_GONE))
    return target.rename(holder / target.name)


def _delete(aside: Path) -> None:
    shutil.rmtree(aside.parent, ignore_errors=True)


def _sweep(library: Path) -> None:
    """Delete what was on its way out when its process died, and what was on its way in long ago."""
    for left in library.glob(".*-*"):
        with suppress(OSError):
            old = time.time() - left.stat().st_mtime > _ABANDONED_S
            if left.name.startswith(_GONE) or (old and left.name.startswith((_STAGED, DOWNLOADS, MERGES))):
                shutil.rmtree(left, ignore_errors=True)
