"""The user's own file of settings: made, changed line by line, put aside. Always whole or not at all, readable by its
owner alone. What its lines look like is toml_text.py's and taught.py's.
"""

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mp13.chat.settings.load import check_key, check_values, config_file
from mp13.chat.settings.model import STARTER_NAMES, resolve_model
from mp13.chat.settings.problems import Problem, problems_in, read_text, sound_values
from mp13.chat.settings.profiles import find_profile
from mp13.chat.settings.taught import taught
from mp13.chat.settings.toml_text import assigned, removed, statements
from mp13.engine.quantization import parse_quantization
from mp13.errors import ConfigError
from mp13.library.paths import given_path


@dataclass(frozen=True)
class Written:
    """Where the file is, and where what it replaced is now, if anything."""

    path: Path
    backup: Path | None = None


def make_file(profile: str | None = None, *, replace: bool = False) -> Written:
    """Write the file anew, every setting explained, with those of a ready profile set.

    Raises:
        ConfigError: it exists (unless `replace`, which keeps the old one), or cannot be written; no such profile.
    """
    ready = None if profile is None else find_profile(profile)
    text = taught(ready.lines, f"Made from the profile {ready.name}. {ready.about}") if ready else taught()
    if config_file().exists() and not replace:
        raise ConfigError(
            f"{config_file()} exists; give --force to replace it (the old one is kept beside it), or change single "
            "settings with `mp13config set`"
        )
    return replace_file(text)


def replace_file(text: str) -> Written:
    """Write `text` as the whole file, and keep what was there under another name.

    Raises:
        ConfigError: it cannot be written; what was there stays.
    """
    path = config_file()
    backup = None
    if path.is_file():
        try:
            before = path.read_bytes()
            if before != text.encode():
                backup = _free_name(path)
                write_whole(backup, before)
        except OSError as error:
            raise ConfigError(f"{path} cannot be kept ({error.strerror}); move it away and try again") from None
    write_whole(path, text.encode())
    return Written(path, backup)


def set_value(key: str, value: str) -> Any:
    """Set `key` in the file to what the text `value` means; returns that. All else in the file stays as it is.

    Raises:
        Mp13Error: the value cannot be used, alone or beside the others, or the file cannot be read or written.
    """
    text = _text_now()
    usable = usable_value(key, value, beside=sound_values(text))
    _replace_if_sound(text, assigned(text, key, usable))
    return usable


def unset_value(key: str) -> bool:
    """Take `key` out of the file; whether it was there. Raises as `set_value`."""
    check_key(key)
    text = _text_now()
    if all(found.key != key for found in statements(text)):
        return False
    _replace_if_sound(text, removed(text, key))
    return True


def usable_value(key: str, value: Any, *, beside: Mapping[str, Any]) -> Any:
    """`value`, which may be text, as the file is to have it: typed, and a path meant from everywhere.

    Raises:
        Mp13Error: there is no such setting, or it cannot be used beside these values of others.
    """
    check_key(key)
    typed = getattr(check_values({**beside, key: value}), key)
    if key == "quantization":
        return str(parse_quantization(typed) or "none")
    if key == "model" and typed not in STARTER_NAMES:
        resolve_model(typed)
        path = given_path(typed)
        return str(path.absolute()) if path.exists() else typed
    if key == "adapters_folder" and typed is not None:
        folder = given_path(typed).absolute()
        if not folder.is_dir():
            raise ConfigError(f"there is no folder {str(typed)!r}; make it first, or give none")
        return str(folder)
    return typed


def _text_now() -> str:
    """The file's text, empty where there is none. Raises ConfigError when it cannot be read or is no TOML."""
    path = config_file()
    if not path.exists():
        return ""
    text = read_text(path)
    if broken := [problem for problem in problems_in(text) if problem.key is None]:
        raise ConfigError(f"{path}, line {broken[0].line}: {broken[0].message}; correct it first; nothing was changed")
    return text


def _replace_if_sound(before: str, after: str) -> None:
    """Write `after`, unless something is wrong in it that was not before."""

    def said(problems: list[Problem]) -> set[tuple[str | None, str]]:
        return {(problem.key, problem.message) for problem in problems}

    known = said(problems_in(before))
    for problem in problems_in(after):
        if (problem.key, problem.message) not in known:
            raise ConfigError(f"{problem.message}; nothing was changed")
    write_whole(config_file(), after.encode())


def _free_name(path: Path) -> Path:
    number = 1
    while (name := path.with_name(f"{path.name}.old-{number}")).exists():
        number += 1
    return name


def write_whole(path: Path, content: bytes) -> None:
    """Let `content` be all of the file. A link stays one: what it leads to is written.

    Raises:
        ConfigError: it cannot be written; what was there stays.
    """
    path = path.resolve()
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".writing-") as folder:
            draft = Path(folder) / path.name
            with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
    except OSError as error:
        why = f"{path} cannot be written ({error.strerror})"
        raise ConfigError(f"{why}; set MP13_CONFIG_DIR to another folder") from None
