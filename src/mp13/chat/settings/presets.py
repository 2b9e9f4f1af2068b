"""Named ways to answer: a mix, a system prompt, sampling, or some of them, under one name, in presets.toml beside the
user's settings. What a chat does with one is the commands'.
"""

import difflib
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any

import tomli_w
from pydantic import AfterValidator, BaseModel, ConfigDict, RootModel, ValidationError

from mp13.chat.settings.load import check_values
from mp13.chat.settings.problems import read_text
from mp13.chat.settings.schema import SamplingSettings
from mp13.chat.settings.user_file import write_whole
from mp13.errors import ConfigError, MixError, Mp13Error
from mp13.library.paths import config_dir
from mp13.mix import parse_mix

_NAME = re.compile(r"[\w.-]{1,64}")


def _usable_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError("a name has 1 to 64 letters, digits, '.', '_' or '-'")
    return name


def _usable_mix(mix: str) -> str:
    try:
        return str(parse_mix(mix))
    except MixError as error:
        raise ValueError(str(error)) from None


def _usable_sampling(given: dict[str, Any]) -> dict[str, Any]:
    """As settings have them; text is read as `/set` reads it."""
    for key in given:
        if key not in SamplingSettings.model_fields:
            near = difflib.get_close_matches(key, SamplingSettings.model_fields, n=1)
            known = ", ".join(SamplingSettings.model_fields)
            raise ValueError(f"{key!r} is not about sampling; " + (f"did you mean {near[0]!r}?" if near else known))
    try:
        checked = check_values(given)
    except Mp13Error as error:
        raise ValueError(str(error)) from None
    return {key: value for key in given if (value := getattr(checked, key)) is not None}


class Preset(BaseModel):
    """None and an empty `sampling` leave what is chosen as it is; an empty `system` takes the system prompt away."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mix: Annotated[str, AfterValidator(_usable_mix)] | None = None
    system: str | None = None
    sampling: Annotated[dict[str, Any], AfterValidator(_usable_sampling)] = {}

    @property
    def is_empty(self) -> bool:
        return self == Preset()


class _Presets(RootModel[dict[Annotated[str, AfterValidator(_usable_name)], Preset]]):
    pass


def presets_file() -> Path:
    """It need not exist."""
    return config_dir() / "presets.toml"


def presets() -> dict[str, Preset]:
    """All of them by name, in the order in which they were first kept.

    Raises:
        ConfigError: the file cannot be read, or has what cannot be used; the sentence says where.
    """
    path = presets_file()
    if not path.exists():
        return {}
    try:
        return _checked(tomllib.loads(read_text(path)))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} cannot be read as TOML ({error}); correct it or move it away") from None
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def find_preset(name: str) -> Preset:
    """Raises ConfigError, with a suggestion, when there is none of this name."""
    known = presets()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        there = f"there: {', '.join(known)}" if known else "nothing is kept yet"
        raise ConfigError(f"nothing is kept as {name!r}; " + (f"did you mean {near[0]!r}?" if near else there))
    return known[name]


def keep_preset(name: str, **parts: Any) -> Preset:
    """Keep `parts` (fields of Preset) under `name`; its other parts stay. None, or {}, takes a part away, and with the
    last part the name.

    Raises:
        ConfigError: something cannot be used, or the file not be read or written; it is as it was.
    """
    known = presets()
    plain = {one: preset.model_dump(exclude_defaults=True) for one, preset in known.items()}
    checked = _checked({**plain, name: {**plain.get(name, {}), **parts}})
    kept = {one: preset for one, preset in checked.items() if not preset.is_empty}
    written = {one: preset.model_dump(exclude_defaults=True) for one, preset in kept.items()}
    write_whole(presets_file(), tomli_w.dumps(written, multiline_strings=True).encode())
    return checked[name]


def _checked(content: dict[str, Any]) -> dict[str, Preset]:
    try:
        return _Presets.model_validate(content).root
    except ValidationError as error:
        detail = error.errors()[0]
        place = ".".join(str(part) for part in detail["loc"] if part != "[key]")
        why = detail["msg"].removeprefix("Value error, ").removesuffix(".")
        raise ConfigError(f"{place} = {detail['input']!r} cannot be used: {why}") from None
