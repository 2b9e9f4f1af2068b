"""A glance at the settings that the first frame needs, without the cost of loading all of them.

It never complains: what is wrong with a source is said when the settings are loaded (settings/load.py).
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mp13.chat.settings.themes import DARK, THEMES
from mp13.library.paths import config_dir

_YES = ("true", "1", "yes", "on", "t", "y")


@dataclass(frozen=True)
class Glance:
    theme: str = DARK
    plain: bool = False


def glance(flags: Mapping[str, str]) -> Glance:
    """The theme and whether the chat is plain, from the first source that says so; `flags` as for `load_settings`."""
    sources = [flags, {key: os.environ.get(f"MP13_{key.upper()}") for key in ("theme", "plain")}]
    sources += [_glanced(Path("mp13.toml")), _glanced(config_dir() / "config.toml")]
    found = {key: value for source in reversed(sources) for key, value in source.items() if value is not None}
    theme = found.get("theme")
    return Glance(theme if theme in THEMES else DARK, str(found.get("plain", "")).strip().lower() in _YES)


def _glanced(path: Path) -> Mapping[str, Any]:
    try:
        content = path.read_bytes()
    except OSError:
        return {}
    if b"theme" not in content and b"plain" not in content:
        return {}
    import tomllib  # only where it is worth the time of its import

    try:
        values = tomllib.loads(content.decode())
    except (ValueError, RecursionError):
        return {}
    return {key: values.get(key) for key in ("theme", "plain")}
