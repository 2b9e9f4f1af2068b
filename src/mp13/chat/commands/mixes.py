"""The command about mixes that have a name. Where they are kept is settings/presets.py."""

from contextlib import suppress
from typing import TYPE_CHECKING

from mp13.chat.commands.command import Command
from mp13.chat.conversation.turn import CommandResult
from mp13.chat.settings.presets import find_preset, keep_preset, presets
from mp13.errors import ConfigError

if TYPE_CHECKING:
    from mp13.chat.conversation.session import ChatSession

SAVE, DELETE = "save", "delete"


async def _mix(session: "ChatSession", argument: str) -> CommandResult:
    verb, _, name = argument.partition(" ")
    name = name.strip()
    if not argument:
        return CommandResult(_listed() or "no mix is kept yet; /mix save NAME keeps the one that answers now")
    if verb == SAVE:
        _check_name(name, verb)
        keep_preset(name, mix=session.mix)
        return CommandResult(f"{session.mix} is kept as {name}; /mix {name} chooses it")
    if verb == DELETE:
        mix = _mix_of(name)
        keep_preset(name, mix=None)
        return CommandResult(f"{name} is forgotten; it was {mix}")
    chosen = await session.set_mix(_mix_of(argument))
    said = chosen if chosen == argument else f"{argument}: {chosen}"
    return CommandResult("\n".join([f"{said} answers from here on", *map(str, session.remarks)]), mix_changed=True)


def _check_name(name: str, verb: str) -> None:
    if not name:
        raise ConfigError(f"/mix {verb} needs a name, for instance /mix {verb} calm")
    if name in (SAVE, DELETE):
        raise ConfigError(f"{name!r} cannot name a mix, /mix {name} means something else; choose another name")


def _mix_of(name: str) -> str:
    """Raises ConfigError where no mix has this name."""
    _check_name(name, DELETE)
    mix = find_preset(name).mix
    if mix is None:
        raise ConfigError(f"{name} is kept without a mix; /mix save {name} adds the one that answers now")
    return mix


def _listed() -> str:
    named = _named()
    width = max(map(len, named), default=0)
    return "\n".join(f"{name:<{width}}  {mix}" for name, mix in named.items())


def _named() -> dict[str, str]:
    return {name: preset.mix for name, preset in presets().items() if preset.mix is not None}


def _choices(session: "ChatSession") -> list[str]:
    named: dict[str, str] = {}
    with suppress(ConfigError):  # the command itself says what is wrong with the file
        named = _named()
    return [*named, f"{SAVE} ", *(f"{DELETE} {name}" for name in named)]


MIX_COMMANDS = (
    Command("/mix", "[NAME|save NAME|delete NAME]", "Choose a mix by its name; alone, list.", _mix, _choices),
)
