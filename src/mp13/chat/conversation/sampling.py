"""How a conversation's answers are sampled: it goes on as its last answer was made."""

from mp13.chat.conversation.turn import Turn
from mp13.chat.settings.load import COMMAND_LINE, change_settings
from mp13.chat.settings.schema import SamplingSettings, Settings


def sampled_as(settings: Settings, turns: list[Turn]) -> Settings:
    """`settings`, sampling as for the last answer of `turns`. The command line goes first; a seed is not taken over,
    since each answer without one has drawn its own."""
    last = next((turn.provenance.sampling for turn in reversed(turns) if turn.provenance is not None), None)
    if last is None:
        return settings
    keys = [key for key in SamplingSettings.model_fields if key != "seed" and settings.source(key) != COMMAND_LINE]
    changed = {key: getattr(last, key) for key in keys if getattr(last, key) != getattr(settings, key)}
    return change_settings(settings, changed, "the conversation") if changed else settings
