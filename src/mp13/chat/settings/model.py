"""Which model a name means: the starter, a folder or GGUF file, one in the data folder, or a Hub id. The engine finds
out more."""

import re

from mp13.errors import ModelError
from mp13.library.hub import is_path
from mp13.library.paths import given_path, models_dir
from mp13.library.starter import STARTER, starter_dir

STARTER_NAMES = ("starter", STARTER)
_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")


def resolve_model(name: str) -> str:
    """The folder or file of `name`, or `name` itself when it can only be a Hub id. The starter's may not exist yet.

    Raises:
        ModelError: no such folder or file, and not a Hub id either.
    """
    if name in STARTER_NAMES:
        return str(starter_dir())
    path = given_path(name)
    if path.exists():
        return str(path.absolute())
    if not is_path(name):
        if (models_dir() / name).exists():
            return str(models_dir() / name)
        if _HUB_ID.fullmatch(name):
            return name
    raise ModelError(f"there is no model {name!r}; give a folder, a GGUF file, a Hub id such as org/name, or 'starter'")
