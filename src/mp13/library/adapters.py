"""The adapters on disk by name: every one in the folders, one of them, and what is known of their content.

What a single folder holds is adapter_folder.py's; changing the library is changes.py's. No torch.
"""

import difflib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from mp13.digests import adapter_digest, remembered_digest
from mp13.engine.adapters.adapter_config import CONFIG_FILE
from mp13.engine.adapters.tensor_file import WEIGHTS_FILE
from mp13.errors import AdapterError
from mp13.library.adapter_folder import AdapterOnDisk, is_adapter, look_at
from mp13.library.effects import known_effects

__all__ = ["AdapterOnDisk", "available_adapters", "find_adapter", "find_adapters", "list_adapters", "with_digests"]


def list_adapters(folders: Sequence[Path]) -> list[AdapterOnDisk]:
    """Every adapter directly inside `folders`, sorted by name. A folder that does not exist has none.

    A name met again in a later folder is listed as unfit: a mix could not tell the two apart.

    Raises:
        AdapterError: a folder exists but cannot be read.
    """
    found: list[AdapterOnDisk] = []
    taken: dict[str, Path] = {}
    for folder in dict.fromkeys(folders):
        for adapter in _adapters_in(folder):
            first = taken.setdefault(adapter.name, adapter.path)
            if first != adapter.path and adapter.unfit is None:
                adapter = replace(adapter, unfit=f"{first} has the same name; rename one of the two folders")
            found.append(adapter)
    return sorted(found, key=lambda adapter: (adapter.name, str(adapter.path)))


def find_adapter(name: str, folders: Sequence[Path]) -> AdapterOnDisk:
    """The adapter called `name`, sound or not; of two with one name, the first folder's.

    Raises:
        AdapterError: there is none; the nearest name is suggested.
    """
    adapters = list_adapters(folders)
    for folder in folders:
        for adapter in adapters:
            if adapter.name == name and adapter.path.parent == folder:
                return adapter
    names = sorted({adapter.name for adapter in adapters})
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"there: {', '.join(names) or 'none yet'}"
    raise AdapterError(f"there is no adapter {name!r} in {' or '.join(map(str, folders))}; {hint}")


def with_digests(
    adapters: Sequence[AdapterOnDisk],
    progress: Callable[[str, float | None], None] | None = None,
    base: str | None = None,
) -> list[AdapterOnDisk]:
    """The same with digest, and with the effect on the base of that digest if it was measured.

    Without `progress` nothing is hashed: what isn't known stays None. So does the digest of what cannot be read.
    """
    effects = known_effects(base) if base is not None else {}
    done = []
    for number, adapter in enumerate(adapters):
        files = adapter.path / CONFIG_FILE, adapter.path / WEIGHTS_FILE
        try:
            digest = remembered_digest(*files)
            if digest is None and progress is not None and adapter.whole:
                progress("hashing", number / len(adapters))
                digest = adapter_digest(*files)
        except OSError:
            digest = None
        done.append(replace(adapter, digest=digest, effect=effects.get(digest or "")))
    return done


def _adapters_in(folder: Path) -> Iterator[AdapterOnDisk]:
    try:
        children = sorted(folder.iterdir())
    except FileNotFoundError:
        return
    except OSError as error:
        raise AdapterError(f"the adapter folder {folder} cannot be read ({error.strerror}); choose another") from error
    for child in children:
        if not child.name.startswith(".") and is_adapter(child):
            yield look_at(child, folder)


def available_adapters(folders: Sequence[Path]) -> list[AdapterOnDisk]:
    """Every adapter in `folders` by name; of two with one name, the first folder's."""
    found = {adapter.name: adapter for folder in reversed(folders) for adapter in list_adapters([folder])}
    return [found[name] for name in sorted(found)]


def find_adapters(names: Sequence[str], folders: Sequence[Path]) -> list[AdapterOnDisk]:
    """The adapters called `names` on disk; of two with one name, the first folder's.

    Raises:
        AdapterError: one is not there, or is there and cannot be used.
    """
    adapters = [find_adapter(name, folders) for name in names]
    for adapter in adapters:
        if adapter.unfit is not None:
            raise AdapterError(f"adapter {adapter.name!r} in {adapter.path} cannot be used: {adapter.unfit}")
    return adapters
