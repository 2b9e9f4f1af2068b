"""The one line under an answer that says what produced it, the same on screen, in the demo and on the command line."""

from mp13.chat.conversation.turn import Turn
from mp13.chat.text import printable

_ENDINGS = {"abort": "stopped", "length": "cut at the token limit"}


def badge(turn: Turn) -> str:
    """For instance `pirate · 38 tok/s · 120 cached`."""
    parts = [turn.mix]
    if turn.metrics is not None:
        parts += [speed(turn.metrics.tokens_per_s), f"{turn.metrics.cached_tokens} cached"]
    if turn.finish_reason in _ENDINGS:
        parts.append(_ENDINGS[turn.finish_reason])
    return printable(" · ".join(parts))


def speed(tokens_per_s: float) -> str:
    """For instance `38 tok/s`, `3.8 tok/s`."""
    return f"{tokens_per_s:.{0 if tokens_per_s >= 10 else 1}f} tok/s"
