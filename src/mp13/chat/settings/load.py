"""Where settings come from, which source wins, and what is wrong with a value, in a sentence that names its source.

Command line > `MP13_*` variables > ./mp13.toml > config.toml > defaults. What the settings are is settings/schema.py.
"""

import difflib
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_settings import EnvSettingsSource, TomlConfigSettingsSource

from mp13.chat.settings.schema import Settings
from mp13.errors import ConfigError, Mp13Error
from mp13.library.hub import is_path
from mp13.library.paths import config_dir

COMMAND_LINE = "the command line"
PROJECT_FILE = Path("mp13.toml")
_OTHER_VARIABLES = {"MP13_DATA_DIR", "MP13_CONFIG_DIR", "MP13_STARTER_WHEEL"}
_WANTED = {
    "float_parsing": "a number",
    "float_type": "a number",
    "int_parsing": "a whole number",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "string_type": "text",
    "tuple_type": "a list",
}


@dataclass(frozen=True)
class Layer:
    """The values of one source, and what to call that source."""

    source: str
    values: Mapping[str, Any]


def config_file() -> Path:
    """The user's own file of settings, which need not exist."""
    return config_dir() / "config.toml"


def load_settings(flags: Mapping[str, Any] | None = None) -> Settings:
    """The settings of a chat started here and now; `flags` are the command line's, values as text.

    Raises:
        Mp13Error: a source cannot be read or has an unknown key or a value that cannot be used.
    """
    layers = (
        Layer(COMMAND_LINE, flags or {}),
        Layer("environment", EnvSettingsSource(Settings)()),
        Layer(f"./{PROJECT_FILE}", _project_values()),
        Layer(str(config_file()), _read(config_file())),
    )
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for layer in reversed(layers):
        _check_keys(layer)
        for key, value in layer.values.items():
            values[key] = value
            sources[key] = f"MP13_{key.upper()}" if layer.source == "environment" else layer.source
    return _build(values, sources)


def change_settings(settings: Settings, changes: Mapping[str, Any], source: str) -> Settings:
    """`settings` with `changes` (values may be text), which came from `source`. Raises like `load_settings`."""
    for key, value in changes.items():
        check_key(key, value)
    values = dict(iter(settings))  # dict(settings) would take the setting `keys` for a method
    return _build({**values, **changes}, {**settings._sources, **dict.fromkeys(changes, source)})


def unknown_variables() -> list[str]:
    """`MP13_*` variables that set nothing: most likely misspelt."""
    known = {f"MP13_{key.upper()}" for key in Settings.model_fields} | _OTHER_VARIABLES
    return sorted(name for name in os.environ if name.upper().startswith("MP13_") and name.upper() not in known)


def _project_values() -> dict[str, Any]:
    """The project's file, which may have come with a cloned repository and so may not set everything."""
    values = _read(PROJECT_FILE)
    for key, value in values.items():
        require_allowed(key, value)
    return values


def require_allowed(key: str, value: Any) -> None:
    """Raises ConfigError where a project's file may not set `key`, or not to this."""
    field = Settings.model_fields.get(key)
    extra = field.json_schema_extra if field is not None else None
    personal = isinstance(extra, dict) and extra.get("personal")
    if personal or (key == "model" and isinstance(value, str) and (is_path(value) or os.path.exists(value))):
        shown = f"{key} to the {'file' if os.path.isfile(value) else 'folder'} {value!r}" if key == "model" else key
        raise ConfigError(
            f"./{PROJECT_FILE} may not set {shown}, since it may come with a cloned repository; "
            f"set it in {config_file()}, as MP13_{key.upper()} or with --set {key}=…"
        )


def _read(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    if not path.is_file():
        raise ConfigError(f"{path} is not a file; move it away and run `mp13config`")
    try:
        return TomlConfigSettingsSource(Settings, path).toml_data
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"{path} cannot be read as TOML ({error}); correct it or move it away") from None


def _check_keys(layer: Layer) -> None:
    for key, value in layer.values.items():
        check_key(key, value, f" in {layer.source}")


def check_key(key: str, value: Any = None, where: str = "") -> None:
    """Raises ConfigError, with a suggestion, when no setting is called `key`."""
    if key in Settings.model_fields:
        return
    near = difflib.get_close_matches(key, Settings.model_fields, n=1)
    if isinstance(value, dict):
        fix = "write settings as lines of `key = value`, without tables"
    else:
        fix = f"did you mean {near[0]!r}?" if near else "`mp13config show` lists them all"
    raise ConfigError(f"unknown setting {key!r}{where}; {fix}")


def check_values(values: Mapping[str, Any]) -> Settings:
    """Settings of nothing but `values`, which may be text; the keys are known.

    Raises:
        Mp13Error: one of them cannot be used, or not together. It names no source.
    """
    return _build(dict(values), {})


def _build(values: dict[str, Any], sources: dict[str, str]) -> Settings:
    try:
        for key, value in values.items():
            if isinstance(value, bool) and not isinstance(Settings.model_fields[key].default, bool):
                raise ConfigError(f"{key} = {str(value).lower()} cannot be used; true and false are no values for it")
        settings = Settings(**values)
        settings._sources = sources
        return settings.check()
    except ValidationError as error:
        raise _refused(error, sources) from None
    except Mp13Error as error:
        key = str(error).partition(" = ")[0]
        if key not in sources:
            raise
        raise type(error)(f"{error} (from {sources[key]})") from None


def _refused(error: ValidationError, sources: Mapping[str, str]) -> ConfigError:
    detail = error.errors()[0]
    key = str(detail["loc"][0])
    wanted = _WANTED.get(detail["type"]) or detail.get("ctx", {}).get("expected") or detail["msg"]
    source = f" (from {sources[key]})" if key in sources else ""
    return ConfigError(f"{key} = {detail['input']!r} cannot be used; give {wanted}{source}")
