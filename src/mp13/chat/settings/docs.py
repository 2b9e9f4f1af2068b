"""Writes docs/configuration.md from the declarations: `python -m mp13.chat.settings.docs > docs/configuration.md`."""

import sys

from pydantic import BaseModel

from mp13.chat.settings.keys import KEY_ACTIONS, SCOPES
from mp13.chat.settings.schema import GROUPS

_HEAD = """\
# Configuration

Every setting works in five places; the first that has it wins:

1. the command line: `mp13chat --set temperature=0.2` (some have flags of their own: `--model`, `--adapter`, `--no-log`)
2. a variable: `MP13_TEMPERATURE=0.2`
3. `./mp13.toml` in the working directory: `temperature = 0.2`
4. your `config.toml` (`mp13config path` says where): `temperature = 0.2`
5. the default

`/set temperature=0.2` changes a setting in a running chat. `mp13config show` lists the values and where each comes
from, `mp13config doctor` examines the machine, and `mp13config` alone asks five questions when nothing is configured.
`none` unsets a setting that may be unset. An unknown key is an error.

`./mp13.toml` may have come with a cloned repository. It may not set what ● marks below, nor `model` to a folder.

Two variables are no settings: `MP13_DATA_DIR` (models, adapters, conversations) and `MP13_CONFIG_DIR` (`config.toml`).

<!-- Made from src/mp13/chat/settings/schema.py by `python -m mp13.chat.settings.docs`; a test holds it in step. -->
"""


def configuration_page() -> str:
    """The whole page, Markdown."""
    page = _HEAD
    for title, group in GROUPS:
        page += f"\n## {title}\n\n{_summary(group)}\n\n| setting | default | |\n|---|---|---|\n"
        for key, field in group.model_fields.items():
            mark = " ●" if field.json_schema_extra else ""
            page += f"| `{key}`{mark} | `{_shown(field.default)}` | {field.description} |\n"
    return page + _key_tables()


def _key_tables() -> str:
    page = "\n## Keys\n\nWhat `keys` may remap, and the keys that it takes the place of.\n"
    for scope, title in SCOPES.items():
        page += f"\n{title}:\n\n| action | keys | |\n|---|---|---|\n"
        for action in KEY_ACTIONS.values():
            if action.scope == scope:
                page += f"| `{action.id}` | `{action.keys}` | {action.help} |\n"
    return page


def _summary(group: type[BaseModel]) -> str:
    return (group.__doc__ or "").partition("\n")[0]


def _shown(default: object) -> str:
    match default:
        case None:
            return "none"
        case bool():
            return str(default).lower()
        case tuple():
            return str(list(default))
    return str(default)


if __name__ == "__main__":
    sys.stdout.write(configuration_page())
