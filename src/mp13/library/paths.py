"""Where mp13 keeps things: `MP13_DATA_DIR` and `MP13_CONFIG_DIR`, else the platform's usual folders. And what a person
may write for a path."""

import errno
import os
from pathlib import Path

import platformdirs

from mp13.errors import ConfigError


def data_dir() -> Path:
    """Models, adapters and conversations. Not created here."""
    return Path(os.environ.get("MP13_DATA_DIR") or platformdirs.user_data_dir("mp13"))


def config_dir() -> Path:
    """The configuration file's folder. Not created here."""
    return Path(os.environ.get("MP13_CONFIG_DIR") or platformdirs.user_config_dir("mp13"))


def models_dir() -> Path:
    return data_dir() / "models"


def adapters_dir() -> Path:
    return data_dir() / "adapters"


def given_path(text: str | Path) -> Path:
    """The path that somebody wrote, with `~` for a home; whether anything is there is another question.

    Raises:
        ConfigError: nothing can be called so.
    """
    try:
        path = Path(text).expanduser()
        os.lstat(path)
    except (RuntimeError, ValueError) as error:  # no such user's home; a NUL
        reason = str(error).rstrip(".")
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            return path
        reason = os.strerror(error.errno)
    else:
        return path
    raise ConfigError(f"{str(text)[:60]!r} cannot name a file or folder ({reason[:60]}); give another path") from None
