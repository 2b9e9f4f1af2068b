"""The starter's adapters in the library when a later mp13 ships others: they are replaced, as long as they are as they
were shipped. Putting in those that are missing is starter.py's.
"""

import filecmp
import hashlib
import shutil
from importlib import resources
from pathlib import Path

from mp13.library.paths import adapters_dir
from mp13.library.placing import changing, readable_errors, staging, swap

_SHIPPED = "SHA256SUMS"  # beside them: of every file that was ever shipped, as `sha256sum` writes it


def update_adapters() -> list[str]:
    """Replace the adapters in the library that an earlier mp13 brought, each whole or not at all; their names.

    What somebody else made or changed stays, as do links, and what was put beside the files that mp13 brings: tags.

    Raises:
        AdapterError: the library cannot be changed.
    """
    library = adapters_dir()
    with readable_errors(), resources.as_file(resources.files("mp13.library") / "starter_adapters") as shipped:
        if not _outdated(shipped, library):
            return []
        with changing(library):
            outdated = _outdated(shipped, library)  # another chat may have been first
            for source in outdated:
                with staging(library) as temporary:
                    made = shutil.copytree(library / source.name, temporary / source.name, symlinks=True)
                    shutil.copytree(source, made, dirs_exist_ok=True)
                    swap(made, library / source.name, library)
    return [source.name for source in outdated]


def _outdated(shipped: Path, library: Path) -> list[Path]:
    known = set((shipped / _SHIPPED).read_text(encoding="utf-8").splitlines())
    sources = sorted(folder for folder in shipped.iterdir() if folder.is_dir())
    return [source for source in sources if _is_outdated(source, library / source.name, known)]


def _is_outdated(source: Path, target: Path, known: set[str]) -> bool:
    """Whether `target` has other files than `source`, all of which were shipped once."""
    files = [(file, target / file.name) for file in source.iterdir()]
    if target.is_symlink() or not all(installed.is_file() and not installed.is_symlink() for _, installed in files):
        return False
    if all(filecmp.cmp(file, installed, shallow=False) for file, installed in files):
        return False
    return all(f"{_digest(installed)}  {source.name}/{file.name}" in known for file, installed in files)


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
