"""The ready profiles: small files of settings for a kind of machine. They are `configs/` in a checkout, and lie beside
this module where mp13 is installed.
"""

import difflib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from mp13.chat.settings.toml_text import lines_of, statements
from mp13.errors import ConfigError

_INSTALLED = Path(__file__).with_name("ready")
_CHECKOUT = Path(__file__).parents[4] / "configs"


@dataclass(frozen=True)
class Profile:
    """`text` is the file: a comment that says what it is for, then the settings, each with a reason behind it."""

    name: str
    text: str

    @cached_property
    def about(self) -> str:
        """What it is for, in one line."""
        lines = lines_of(self.text)
        first = next((index for index, line in enumerate(lines) if not line.startswith("#")), len(lines))
        return " ".join(line.strip("# \n") for line in lines[:first])

    @cached_property
    def lines(self) -> dict[str, str]:
        """The settings by key, as they are written."""
        lines = lines_of(self.text)
        return {found.key: "".join(lines[found.start : found.end]).rstrip() for found in statements(self.text)}


def profile_names() -> list[str]:
    return sorted(path.stem for path in _folder().glob("*.toml"))


def find_profile(name: str) -> Profile:
    """Raises ConfigError, with a suggestion, when there is no such profile."""
    names = profile_names()
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        raise ConfigError(
            f"there is no profile {name!r}; "
            + (f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(names)}")
        )
    return Profile(name, (_folder() / f"{name}.toml").read_text(encoding="utf-8"))


def _folder() -> Path:
    return _INSTALLED if _INSTALLED.is_dir() else _CHECKOUT
