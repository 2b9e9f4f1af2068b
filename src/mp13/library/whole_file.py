"""A file that somebody asked for: there when all of it is written, or not at all."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from mp13.errors import ConfigError


@contextmanager
def whole_file(out: Path, *, replace: bool) -> Iterator[IO[bytes]]:
    """What is written within becomes `out`, for its owner alone; nothing of it stays after an error.

    Raises:
        ConfigError: the file exists and is not to be replaced, or cannot be written.
    """
    _check_free(out, replace)
    try:
        with tempfile.NamedTemporaryFile("wb", dir=out.parent, prefix=".mp13-", delete=False) as file:
            part = Path(file.name)
            try:
                yield file
                file.flush()
                os.fsync(file.fileno())
                file.close()
                _check_free(out, replace)  # somebody may have made it meanwhile
                part.replace(out)
            finally:
                file.close()
                part.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(f"{out} cannot be written ({error.strerror or error}); choose another place") from None


def _check_free(out: Path, replace: bool) -> None:
    if not replace and (out.exists() or out.is_symlink()):
        raise ConfigError(f"{out} exists; give --force to replace it, or another name")
