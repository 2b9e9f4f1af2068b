"""The one line under an answer that says what produced it, the same on screen, in the demo and on the command line."""

from mp13.chat.conversation.room import oldest_exchanges
from mp13.chat.conversation.turn import Turn
from mp13.chat.text import printable

_ENDINGS = {"abort": "stopped", "length": "cut at the token limit"}


def badge(turn: Turn) -> str:
    """For instance `pirate · 38 tok/s · 120 cached`, `idle (no effect) · keep · …`."""
    parts = [turn.mix]
    if turn.provenance is not None:
        if idle := turn.provenance.no_effect:
            parts = [f"{turn.mix} ({'' if idle == (turn.mix,) else ', '.join(idle) + ': '}no effect)"]
        if turn.provenance.kv_policy != "exact":
            parts.append(turn.provenance.kv_policy)
    if turn.metrics is not None:
        parts += [speed(turn.metrics.tokens_per_s), f"{turn.metrics.cached_tokens} cached"]
    if turn.skipped:
        parts.append(f"without {oldest_exchanges(turn.skipped)}")
    if turn.finish_reason in _ENDINGS:
        parts.append(_ENDINGS[turn.finish_reason])
    return printable(" · ".join(parts))


def speed(tokens_per_s: float) -> str:
    """For instance `38 tok/s`, `3.8 tok/s`."""
    return f"{tokens_per_s:.{0 if tokens_per_s >= 10 else 1}f} tok/s"
