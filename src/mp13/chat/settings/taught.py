"""A configuration file that teaches: every setting with what it means, its default in a comment, and what is set."""

import textwrap
from collections.abc import Mapping

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from mp13.chat.settings.schema import GROUPS
from mp13.chat.settings.toml_text import toml_value

_WIDTH = 100
_HEAD = (
    "Settings of mp13. A line that begins with #key shows a default: to change it, add a line without the #, or run "
    "`mp13config set KEY VALUE`. The command line, MP13_* variables and a project's ./mp13.toml win over this file."
)


def taught(lines: Mapping[str, str] | None = None, about: str = "") -> str:
    """The text of a file in which `lines`, whole lines of TOML by key, are set; `about` says what they are for."""
    page = _comment(_HEAD) + (_comment(about) if about else "")
    for title, group in GROUPS:
        page += f"\n# ---- {title} ----\n{_comment(_summary(group))}"
        for key, field in group.model_fields.items():
            page += f"\n{_comment(field.description or '')}#{key} = {toml_value(_default(field))}\n"
            page += f"{lines[key]}\n" if lines and key in lines else ""
    return page


def _default(field: FieldInfo) -> object:
    return field.get_default(call_default_factory=True)


def _summary(group: type[BaseModel]) -> str:
    return (group.__doc__ or "").partition("\n")[0]


def _comment(text: str) -> str:
    wrapped = textwrap.wrap(text, _WIDTH - 2, break_long_words=False, break_on_hyphens=False)
    return "".join(f"# {line}\n" for line in wrapped)
