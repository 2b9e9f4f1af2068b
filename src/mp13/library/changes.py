"""Changes of the library: put an adapter in, take one out, rename, tag, copy one out. Each happens whole or not at all.

Nothing outside the library's own folder is ever changed; fetching from the Hub is hub.py's.
"""

import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from mp13.digests import adapter_digest
from mp13.engine.adapters.adapter_config import CONFIG_FILE
from mp13.engine.adapters.tensor_file import WEIGHTS_FILE
from mp13.errors import AdapterError
from mp13.library.adapter_folder import AdapterOnDisk, is_adapter, look_at
from mp13.library.adapters import find_adapter
from mp13.library.hub import HubPlace, fetched, parse_place
from mp13.library.hub_choice import adapter_files
from mp13.library.hub_transfer import Progress
from mp13.library.notes import read_notes, write_notes
from mp13.library.paths import adapters_dir, given_path
from mp13.library.placing import changing, check_new_name, discard, place, readable_errors, staging
from mp13.library.starter_removals import note_removal

_OTHER_FILES = {".json", ".jinja", ".md"}  # of what trainers leave beside the weights, what may matter
_LARGEST_OTHER = 64 << 20  # bytes; a tokenizer.json may be large


def add_adapter(
    what: str,
    name: str | None = None,
    *,
    tags: Sequence[str] = (),
    replace_it: bool = False,
    progress: Progress = lambda stage, fraction: None,
) -> AdapterOnDisk:
    """Copy the folder or fetch the Hub repository `what` into the library, as `name` or under its own name.

    An adapter that can only be merged into a model may come in, too: its `unfit` says so. `what` of the Hub is
    org/name, maybe with a folder and a revision: org/name/folder@revision.

    Raises:
        AdapterError: there is nothing sound at `what`, the name is taken (unless `replace_it`), or the disk refuses.
        MixError: the name cannot be an adapter's.
    """
    source = parse_place(what)
    if isinstance(source, HubPlace):
        name = check_new_name(name or source.name)
        _check_free(name, replace_it)
        with fetched(source, adapter_files, adapters_dir(), progress) as repository:
            origin = {"source": source.text, "revision": repository.revision}
            return _put_in(repository.folder, name, origin, tags, replace_it)
    folder = _adapter_folder(source)
    name = check_new_name(name or folder.name)
    _check_free(name, replace_it)
    if folder.parent == adapters_dir().resolve():
        raise AdapterError(f"{folder} is in the library already, as {folder.name!r}")
    return _put_in(folder, name, {"source": str(folder), "revision": None}, tags, replace_it)


def remove_adapter(name: str, folders: Sequence[Path]) -> AdapterOnDisk:
    """Take `name` out of the library and off the disk.

    Raises:
        AdapterError: there is none, or it is in a folder that is not the library's.
    """
    with readable_errors(), changing(adapters_dir()):
        adapter = _own(name, folders, "removed")
        discard(adapter.path, adapters_dir())
        note_removal(name)
    return adapter


def rename_adapter(old: str, new: str, folders: Sequence[Path]) -> AdapterOnDisk:
    """Call `old` `new` from now on.

    Raises:
        AdapterError: there is no `old`, it is not the library's, or `new` is taken.
        MixError: `new` cannot be an adapter's name.
    """
    check_new_name(new)
    with readable_errors(), changing(adapters_dir()):
        adapter = _own(old, folders, "renamed")
        target = adapters_dir() / new
        if target.exists() and not target.samefile(adapter.path):  # the same where case does not count
            raise AdapterError(f"there is an adapter {new!r} already; choose another name, or remove it first")
        adapter.path.rename(target)
        if new != old:
            note_removal(old)
    return look_at(target, adapters_dir())


def tag_adapter(name: str, tags: Sequence[str], folders: Sequence[Path]) -> AdapterOnDisk:
    """Give `name` these tags in place of those it has.

    Raises:
        AdapterError: there is no `name`, it is not the library's, or a tag cannot be one.
    """
    with readable_errors(), changing(adapters_dir()):
        adapter = _own(name, folders, "tagged")
        if adapter.path.is_symlink():
            raise AdapterError(f"{name!r} is a link to {adapter.path.resolve()} and was not tagged; add a copy instead")
        write_notes(adapter.path, {"tags": sorted(set(tags))})
    return look_at(adapter.path, adapters_dir())


def export_adapter(name: str, target: Path, folders: Sequence[Path]) -> Path:
    """Copy `name` to the new folder `target` (into it, if it is a folder already) for use with PEFT; where it is now.

    Raises:
        AdapterError: there is no such adapter, it is damaged, something is there already, or the disk refuses.
    """
    adapter = find_adapter(name, folders)
    if not adapter.whole:
        raise AdapterError(f"{name!r} cannot be exported: {adapter.unfit}")
    target = given_path(target).absolute()
    if target.is_dir() and not is_adapter(target):
        target /= name
    if target.exists() or target.is_symlink():
        raise AdapterError(f"{target} exists already; choose another place for the copy of {name!r}")
    with readable_errors():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".export-") as temporary:
            copy = Path(temporary) / name
            _copy(adapter.path, copy)
            if adapter.notes.source and not isinstance(parse_place(adapter.notes.source), HubPlace):
                write_notes(copy, {"source": None})  # a folder of this machine is nobody else's business
            copy.rename(target)
    return target


def _put_in(
    folder: Path, name: str, origin: Mapping[str, str | None], tags: Sequence[str], replace_it: bool
) -> AdapterOnDisk:
    """Copy `folder` beside the library's adapters, judge the copy, and move it into its place."""
    with readable_errors(), staging(adapters_dir()) as temporary:
        copy = temporary / name
        _copy(folder, copy)
        found = look_at(copy)
        if not found.whole:  # said of the source: the copy is gone when this is read
            source = str(origin["source"])
            unfit = str(look_at(folder).unfit or found.unfit).replace(str(folder), source)
            raise AdapterError(f"{source} cannot be added: {unfit}")
        digest = adapter_digest(copy / CONFIG_FILE, copy / WEIGHTS_FILE)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        kept = set(read_notes(copy).tags) | set(tags)
        write_notes(copy, {**origin, "tags": sorted(kept), "added_at": now})
        place(copy, adapters_dir() / name, adapters_dir(), replace_it, _taken(name))
    return replace(look_at(adapters_dir() / name, adapters_dir()), digest=digest)


def _adapter_folder(path: Path) -> Path:
    """The adapter that `path` names: itself, its only child that is one, or the folder of a file of it."""
    if path.is_file() and path.name in (CONFIG_FILE, WEIGHTS_FILE):
        path = path.parent
    path = path.resolve()
    if not path.is_dir():
        raise AdapterError(f"{path} is not a folder; give the folder of a PEFT adapter, or a Hub id such as org/name")
    if is_adapter(path):
        return path
    with readable_errors():
        inside = sorted(child.name for child in path.iterdir() if child.is_dir() and is_adapter(child))
    if inside:
        raise AdapterError(f"{path} holds adapters ({', '.join(inside)}) and is none; give one of them")
    raise AdapterError(f"{path} holds no {CONFIG_FILE}; give the folder that PEFT saved")


def _copy(folder: Path, target: Path) -> None:
    """Copy what belongs to an adapter: no pickles, no optimizer states, no folders. Links become files."""
    target.mkdir()
    for file in _belonging(folder):
        shutil.copy2(file, target / file.name)


def _belonging(folder: Path) -> Iterator[Path]:
    for file in sorted(folder.iterdir()):
        other = file.suffix in _OTHER_FILES and not file.name.startswith(".")
        if file.is_file() and (file.name == WEIGHTS_FILE or (other and file.stat().st_size <= _LARGEST_OTHER)):
            yield file


def _own(name: str, folders: Sequence[Path], done: str) -> AdapterOnDisk:
    """The library's own adapter of that name, whatever else has it.

    Raises:
        AdapterError: there is none; says so where a folder of the settings has one.
    """
    if is_adapter(adapters_dir() / name) and Path(name).name == name:
        return look_at(adapters_dir() / name, adapters_dir())
    adapter = find_adapter(name, folders)
    raise AdapterError(
        f"{name!r} is in {adapter.path.parent}, a folder of yours that mp13 only reads, and was not {done}; "
        "do it there, or leave adapters_folder out of the settings"
    )


def _check_free(name: str, replace_it: bool) -> None:
    """Before anything is fetched or copied; `place` asks again."""
    if not replace_it and (adapters_dir() / name).exists():
        raise _taken(name)


def _taken(name: str) -> AdapterError:
    return AdapterError(f"there is an adapter {name!r} already; choose another name, or replace it (--replace)")
