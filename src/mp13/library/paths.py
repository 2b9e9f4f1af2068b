"""Where mp13 keeps things: `MP13_DATA_DIR` and `MP13_CONFIG_DIR`, else the platform's usual folders."""

import os
from pathlib import Path

import platformdirs


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
