"""What the reader has chosen so far, on top of what the configuration file says, and the file that comes of it.

Nothing is written before `write`. Knows no screen.
"""

import tomllib
from typing import Any

from mp13.chat.settings.load import check_values, config_file
from mp13.chat.settings.problems import problems_in, sound_values
from mp13.chat.settings.schema import Settings
from mp13.chat.settings.taught import taught
from mp13.chat.settings.toml_text import assigned, lines_of, removed, statements
from mp13.chat.settings.user_file import Written, replace_file, usable_value
from mp13.errors import ConfigError


class Draft:
    """`remarks` are sentences on what of the file could not be used. A file with comments keeps them and its layout;
    any other is written anew, every setting explained."""

    def __init__(self) -> None:
        """Raises ConfigError when the file is there and cannot be read at all."""
        self._text, self.remarks = _beginning()
        self._chosen: dict[str, Any] = {}

    @property
    def settings(self) -> Settings:
        """The file's, with what was chosen; no other source counts here."""
        return check_values({**sound_values(self._text), **self._chosen})

    def choose(self, **choices: Any) -> None:
        """Take in these settings, whose values may be text.

        Raises:
            Mp13Error: one cannot be used, alone or beside the others; nothing was taken in.
        """
        beside = {**sound_values(self._text), **self._chosen, **choices}
        usable = {key: usable_value(key, value, beside=beside) for key, value in choices.items()}
        self._chosen.update(usable)

    @property
    def changes(self) -> dict[str, Any]:
        """What will be another in the file than it is now, in the order of the settings."""
        now = sound_values(self._text)
        changed = {}
        for key, field in Settings.model_fields.items():
            default = field.get_default(call_default_factory=True)
            if key in self._chosen and self._chosen[key] != now.get(key, default):
                changed[key] = self._chosen[key]
        return changed

    @property
    def text(self) -> str:
        """The file as it will be. What is chosen to be as by default is not set in it."""
        text = self._text
        for key, value in self.changes.items():
            default = Settings.model_fields[key].get_default(call_default_factory=True)
            text = removed(text, key) if value == default else assigned(text, key, value)
        return text

    def write(self) -> Written:
        """Write the file; what it replaces is kept beside it. Raises ConfigError when that cannot be done."""
        return replace_file(self.text)


def _beginning() -> tuple[str, tuple[str, ...]]:
    """The text to begin with, and what of the file is not in it."""
    path = config_file()
    if not path.exists():
        return taught(), ()
    if not path.is_file():
        raise ConfigError(f"{path} is not a file; move it away and run `mp13config` again")
    try:
        text = path.read_bytes().decode()
        tomllib.loads(text)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}); check its permissions") from None
    except UnicodeDecodeError:
        return taught(), (f"{path} is not UTF-8, so nothing of it is taken over.",)
    except (tomllib.TOMLDecodeError, RecursionError):
        return taught(), tuple(f"Line {each.line} of {path}: {each.message}." for each in problems_in(text))
    problems = problems_in(text)
    for problem in problems:
        text = removed(text, problem.key or "")
    remarks = tuple(f"Line {each.line} of {path} is left out: {each.message}." for each in problems)
    return (text if "#" in _bare(text) else _explained(text)), remarks


def _bare(text: str) -> str:
    """The lines that set nothing."""
    lines, own = lines_of(text), {line for found in statements(text) for line in range(found.start, found.end)}
    return "".join(line for number, line in enumerate(lines) if number not in own)


def _explained(text: str) -> str:
    """The settings of `text` in a file that teaches."""
    explained = taught()
    for key, value in tomllib.loads(text).items():
        explained = assigned(explained, key, value)
    return explained
