"""Writes docs/configuration.md from the declarations: `python -m mp13.chat.settings.docs > docs/configuration.md`."""

import sys

from pydantic import BaseModel

from mp13.chat.settings.keys import KEY_ACTIONS, SCOPES
from mp13.chat.settings.profiles import find_profile, profile_names
from mp13.chat.settings.schema import GROUPS

_HEAD = """\
# Configuration

`mp13config` on a terminal is a wizard: what this machine has, a model, what of it fits into the memory, attention,
adapters, colours, and a test prompt that is answered before anything is written. You need none of it to begin:
everything has a default.

Every setting works in five places; the first that has it wins:

1. the command line: `mp13chat --set temperature=0.2` (some have flags of their own: `--model`, `--adapter`, `--no-log`)
2. a variable: `MP13_TEMPERATURE=0.2`
3. `./mp13.toml` in the working directory: `temperature = 0.2`
4. your own `config.toml` (`mp13config path` says where): `temperature = 0.2`
5. the default

`/set temperature=0.2` changes a setting in a running chat. `none` unsets a setting that may be unset. An unknown key is
an error.

`./mp13.toml` may have come with a cloned repository. It may not set what ● marks below, nor `model` to a folder.

Two variables are no settings: `MP13_DATA_DIR` (models, adapters, conversations) and `MP13_CONFIG_DIR` (`config.toml`).

## Without a screen

| command | |
|---|---|
| `mp13config init [--profile NAME] [--force]` | write `config.toml`, every setting explained in it |
| `mp13config get KEY` | one value, as a chat started here would have it |
| `mp13config set KEY VALUE`, `unset KEY` | change `config.toml`; comments and layout stay |
| `mp13config show [--origin]` | every value, and where it comes from |
| `mp13config diff` | what differs from the defaults |
| `mp13config validate [FILE]` | what is wrong with `config.toml` and `./mp13.toml`, or FILE, by line |
| `mp13config path` | where things are kept |
| `mp13config doctor` | examine the machine, and say what to mend |

Each takes `--json`. They end with 0, with 1 where something failed or was found wrong, with 2 for a value that cannot
be used. `config.toml` is written whole or not at all, readable by you alone; what a new one replaces is kept beside it.

## Ready profiles

`mp13config init --profile NAME` begins with one of these, which are the files of [configs](../configs):

{profiles}
<!-- Made from src/mp13/chat/settings/schema.py by `python -m mp13.chat.settings.docs`; a test holds it in step. -->
"""


def configuration_page() -> str:
    """The whole page, Markdown."""
    page = _HEAD.format(profiles=_profiles())
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
            if action.scope == scope and action.told:
                page += f"| `{action.id}` | `{action.keys}` | {action.help} |\n"
    return page


def _profiles() -> str:
    rows = "".join(f"| `{name}` | {find_profile(name).about} |\n" for name in profile_names())
    return f"| profile | |\n|---|---|\n{rows}"


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
