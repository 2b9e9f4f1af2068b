"""Everything that is wrong with a file of settings, each with its line. load.py stops at the first."""

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mp13.chat.settings.load import PROJECT_FILE, check_key, check_values, require_allowed
from mp13.chat.settings.model import resolve_model
from mp13.chat.settings.toml_text import statements
from mp13.errors import ConfigError, MixError, Mp13Error
from mp13.library.starter import STARTER

_PLACE = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)")


@dataclass(frozen=True)
class Problem:
    """`line` counts from 1. `key` is None where the file is no TOML."""

    line: int
    key: str | None
    message: str


def read_text(path: Path) -> str:
    """Raises ConfigError when there is no such file, or it is no text."""
    try:
        return path.read_bytes().decode()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror or error}); give the path of a file") from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ConfigError(f"{path} cannot be read: line {line} is not UTF-8; save it as UTF-8") from None


def problems_in(text: str, *, of_project: bool = False) -> list[Problem]:
    """What `load_settings` would refuse in a file with this text, and a model that is nowhere; by line."""
    try:
        values = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        return [_no_toml(text, error)]
    lines = {found.key: found.start + 1 for found in reversed(statements(text))}
    found = [Problem(lines[key], key, message) for key, message in _refused(values, of_project)]
    return sorted(found, key=lambda problem: problem.line)


def sound_values(text: str) -> dict[str, Any]:
    """What a file with this text sets, which must be TOML, but for what is wrong in it."""
    wrong = {problem.key for problem in problems_in(text)}
    return {key: value for key, value in tomllib.loads(text).items() if key not in wrong}


def is_project_file(path: Path) -> bool:
    """Whether this is what a project brings along, which may not set everything."""
    return path.name == PROJECT_FILE.name


def _refused(values: dict[str, Any], of_project: bool) -> Iterator[tuple[str, str]]:
    """Keys and why they cannot stay. A key that is refused is left out of what the others are judged with."""
    for key, value in list(values.items()):
        try:
            check_key(key, value)
            if of_project:
                require_allowed(key, value)
        except Mp13Error as error:
            yield key, str(error)
            del values[key]
    while (refused := _first_refused(values)) is not None:
        yield refused
        del values[refused[0]]
    try:
        resolve_model(values.get("model", STARTER))
    except Mp13Error as error:
        yield "model", str(error)


def _first_refused(values: dict[str, Any]) -> tuple[str, str] | None:
    try:
        check_values(values)
    except Mp13Error as error:
        return _whose(error, values), str(error)
    return None


def _whose(error: Mp13Error, values: dict[str, Any]) -> str:
    """The key among `values` that an error is about. Beside another one's default it may not be the one named first."""
    if isinstance(error, MixError):
        return "adapter"
    first = str(error).partition(" = ")[0]
    named = [key for key in values if re.search(rf"\b{key}\b", str(error))]
    return first if first in values else next(iter(named or values))


def _no_toml(text: str, error: Exception) -> Problem:
    """tomllib says the line in brackets behind its sentence."""
    if isinstance(error, RecursionError):
        return Problem(1, None, "it is nested too deeply to be TOML")
    place = _PLACE.search(str(error))
    line = int(place[1]) if place and place[1] else text.count("\n") + 1
    return Problem(line, None, f"this is no TOML: {_PLACE.sub('', str(error))}")
