"""The commands about how the chat is set up: sampling, presets, the model."""

import asyncio
import difflib
import json
import shlex
from typing import TYPE_CHECKING

from mp13.chat.commands.command import Command
from mp13.chat.conversation.turn import CommandResult
from mp13.chat.library.model_offers import Offer, offers
from mp13.chat.settings.presets import Preset, find_preset, keep_preset, presets
from mp13.chat.settings.schema import SamplingSettings
from mp13.chat.text import one_line
from mp13.errors import ConfigError
from mp13.library.models import list_models
from mp13.library.starter import starter_ready

if TYPE_CHECKING:
    from mp13.chat.conversation.session import ChatSession

RESET = "reset"
_VERBS = ("save", "use", "list", "delete")


def words_of(command: str, argument: str) -> list[str]:
    """The words of an argument; a value with spaces stands in quotation marks. Raises ConfigError for one left open."""
    try:
        return shlex.split(argument)
    except ValueError as error:
        raise ConfigError(f"{command} {argument} cannot be read ({error}); close the quotation mark") from None


def values_of(command: str, words: list[str]) -> dict[str, str]:
    """Words of the form KEY=VALUE. Raises ConfigError for another."""
    for word in words:
        if not word.partition("=")[0].isidentifier() or "=" not in word:
            raise ConfigError(f"{command}: {word!r} is no KEY=VALUE; put a value with spaces in quotation marks")
    return dict(word.split("=", maxsplit=1) for word in words)


async def _sampling(session: "ChatSession", argument: str) -> CommandResult:
    if argument == RESET:
        await session.change_settings(**{key: getattr(session.given, key) for key in SamplingSettings.model_fields})
    elif argument:
        changes = values_of("/sampling", words_of("/sampling", argument))
        for key in changes:
            if key not in SamplingSettings.model_fields:
                near = difflib.get_close_matches(key, SamplingSettings.model_fields, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"there: {', '.join(SamplingSettings.model_fields)}"
                raise ConfigError(f"{key!r} is not about sampling; {hint}")
        await session.change_settings(**changes)
        return CommandResult(", ".join(_sampled(session, key) for key in changes))
    return CommandResult("\n".join(_sampled(session, key) for key in SamplingSettings.model_fields))


def _sampled(session: "ChatSession", key: str) -> str:
    return f"{key} = {sampling_text(getattr(session.settings, key))}"


def sampling_text(value: object) -> str:
    """A value as it is written in the panel and behind /sampling."""
    if value is None or value == ():
        return "none"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, bool | tuple) else str(value)


async def _preset(session: "ChatSession", argument: str) -> CommandResult:
    verb, _, name = argument.partition(" ")
    name = name.strip()
    if verb in ("", "list"):
        kept = presets()
        width = max(map(len, kept), default=0)
        lines = [f"{name:<{width}}  {_about(preset)}" for name, preset in kept.items()]
        return CommandResult(
            "\n".join(lines) or "no preset yet; /preset save NAME keeps mix, system prompt and sampling"
        )
    if verb not in _VERBS or not name:
        raise ConfigError(f"/preset {argument} cannot be done; write /preset save NAME, use NAME, list or delete NAME")
    if verb == "use":
        return await _use(session, name)
    if verb == "delete":
        about = _about(find_preset(name))
        keep_preset(name, mix=None, system=None, sampling={})
        return CommandResult(f"{name} is deleted; it was {about}")
    sampling = {key: getattr(session.settings, key) for key in SamplingSettings.model_fields}
    parts = {key: list(value) if isinstance(value, tuple) else value for key, value in sampling.items()}
    known = {key: value for key, value in parts.items() if value is not None}
    kept_now = keep_preset(name, mix=session.mix, system=session.system or "", sampling=known)
    return CommandResult(f"{name} is kept: {_about(kept_now)}")


async def _use(session: "ChatSession", name: str) -> CommandResult:
    preset = find_preset(name)
    changes = dict(preset.sampling)
    changes |= {} if preset.mix is None else {"adapter": preset.mix}
    changes |= {} if preset.system is None else {"system": preset.system}
    await session.change_settings(**changes)
    return CommandResult(f"{name}: {_about(preset)}", mix_changed=True)


def _about(preset: Preset) -> str:
    parts = [preset.mix] if preset.mix is not None else []
    if preset.system is not None:
        parts.append(f"system prompt {one_line(preset.system)[:40]!r}" if preset.system else "no system prompt")
    if preset.sampling:
        defaults = {key: field.default for key, field in SamplingSettings.model_fields.items()}
        plain = {key: tuple(value) if isinstance(value, list) else value for key, value in preset.sampling.items()}
        told = {key: value for key, value in plain.items() if key == "temperature" or value != defaults[key]}
        parts.append(", ".join(f"{key} {sampling_text(value)}" for key, value in told.items()))
    return " · ".join(part for part in parts if part)


async def _model(session: "ChatSession", argument: str) -> CommandResult:
    if not argument:
        known = await asyncio.to_thread(models_here, session.settings.model)
        width = max(len(offer.name) for offer in known)
        return CommandResult("\n".join(f"{offer.name:<{width}}  {offer.unfit or offer.detail}" for offer in known))
    if not await session.change_settings(model=argument):
        return CommandResult(f"{argument} answers already")
    return CommandResult(f"{argument} loads; Esc goes back to the model before", engine_changed=True)


def models_here(now: str) -> list[Offer]:
    """The models on this machine, as they are offered; reads the disk."""
    return offers(list_models(), now, starter_ready())


def _sampling_choices(session: "ChatSession") -> list[str]:
    return [RESET, *(f"{key}=" for key in SamplingSettings.model_fields)]


def _preset_choices(session: "ChatSession") -> list[str]:
    try:
        names = list(presets())
    except ConfigError:  # said when the command is run
        names = []
    return ["save ", "list", *(f"use {name}" for name in names), *(f"delete {name}" for name in names)]


SETUP_COMMANDS = (
    Command("/sampling", "[KEY=VALUE…|reset]", "See or change how answers are sampled.", _sampling, _sampling_choices),
    Command("/preset", "[save|use|delete NAME]", "Mix, system prompt and sampling by name.", _preset, _preset_choices),
    Command("/model", "[NAME]", "Answer with another model; alone, list those here.", _model),
)
