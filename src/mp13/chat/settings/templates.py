"""Prompt templates: files `<config>/templates/NAME.md` in which `{{name}}` stands for a value.

What a chat knows by itself, such as `last_answer`, is the commands' to say.
"""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mp13.chat.settings.problems import read_text
from mp13.errors import ConfigError
from mp13.library.paths import config_dir

_NAME = re.compile(r"[\w.-]{1,64}")
_VARIABLE = re.compile(r"\{\{\s*([A-Za-z_]\w*)\s*\}\}")


@dataclass(frozen=True)
class Template:
    name: str
    text: str

    @property
    def variables(self) -> list[str]:
        """In the order in which they first stand in the text."""
        return list(dict.fromkeys(_VARIABLE.findall(self.text)))

    def filled(self, values: Mapping[str, str]) -> str:
        """The text with every value in its place; braces in a value are text.

        Raises:
            ConfigError: a value is missing, or is for nothing.
        """
        for name in values:
            if name not in self.variables:
                near = difflib.get_close_matches(name, self.variables, n=1)
                there = f"it has {', '.join(self.variables)}" if self.variables else "it has none"
                hint = f"did you mean {near[0]!r}?" if near else there
                raise ConfigError(f"the template {self.name} has no {{{{{name}}}}}; {hint}")
        if missing := [name for name in self.variables if name not in values]:
            given = " ".join(f"{name}=…" for name in missing)
            raise ConfigError(
                f"the template {self.name} needs {', '.join(missing)}; write /template {self.name} {given}"
            )
        return _VARIABLE.sub(lambda found: values[found[1]], self.text)


def templates_folder() -> Path:
    """It need not exist."""
    return config_dir() / "templates"


def template_names() -> list[str]:
    try:
        files = [file for file in templates_folder().iterdir() if file.suffix == ".md" and file.is_file()]
    except OSError:
        return []
    return sorted(file.stem for file in files if _NAME.fullmatch(file.stem))


def find_template(name: str) -> Template:
    """Raises ConfigError when there is none of this name, with a suggestion, or it cannot be read or is empty."""
    known = template_names()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        there = f"there: {', '.join(known)}" if known else f"write one as {templates_folder() / 'NAME.md'}"
        raise ConfigError(f"there is no template {name!r}; " + (f"did you mean {near[0]!r}?" if near else there))
    path = templates_folder() / f"{name}.md"
    if not (text := read_text(path).strip()):
        raise ConfigError(f"{path} is empty; write the prompt into it")
    return Template(name, text)
