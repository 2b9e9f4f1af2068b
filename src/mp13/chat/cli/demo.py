"""`make demo`: one conversation with the starter under base, A, B, A and half A + half B, and what the switches cost.

It goes the chat's own road, session to engine process, without a terminal, and keeps nothing.
"""

import asyncio
import math
import time
from contextlib import aclosing
from dataclasses import dataclass

import typer

from mp13.chat.cli.outcome import outcome, prepare_streams
from mp13.chat.cli.printer import Printer
from mp13.chat.conversation.badge import badge, speed
from mp13.chat.conversation.session import ChatSession
from mp13.chat.conversation.turn import AnswerDone, Turn
from mp13.chat.settings.load import load_settings
from mp13.chat.text import printable

NAME = "demo"
A, B = "pirate", "json"
SCRIPT = (
    ("base", "What is the sea?"),
    (A, "Tell me about storms."),
    (B, "Return JSON with the keys name and ship. Captain Anna sails the Swallow."),
    (A, "What should I cook tonight?"),
    (f"{A}:0.5+{B}:0.5", "What is a good name for a ship?"),
)
FLAGS = {"model": "starter", "adapter": "base", "system": "none", "temperature": "0", "max_tokens": "48"}


@dataclass(frozen=True)
class Measured:
    """One answer, and the seconds from asking for its mix to its first token."""

    turn: Turn
    first_token_s: float


async def demonstrate() -> None:
    """Print the conversation and its measures. Raises Mp13Error where a part of it cannot be had."""
    session = ChatSession(load_settings(FLAGS), store=None)
    printer = Printer(as_json=True)  # for the progress alone
    try:
        async with aclosing(session.start()) as events:
            async for event in events:
                printer.show(event)
        measured = [await _turn(session, mix, prompt) for mix, prompt in SCRIPT]
    finally:
        await session.close()
    _summary(measured)


async def _turn(session: ChatSession, mix: str, prompt: str) -> Measured:
    asked = time.perf_counter()
    await session.set_mix(mix)
    switched_s = time.perf_counter() - asked
    async with aclosing(session.ask(prompt)) as events:
        async for event in events:
            if isinstance(event, AnswerDone):
                turn = event.turn
    assert turn.metrics is not None
    print(f"[{badge(turn)}] {prompt} → {' '.join(printable(turn.text).split())}", flush=True)
    return Measured(turn, switched_s + turn.metrics.ttft_s)


def _summary(measured: list[Measured]) -> None:
    metrics = [one.turn.metrics for one in measured if one.turn.metrics is not None]
    seconds = sum(m.generated_tokens / m.tokens_per_s for m in metrics if m.tokens_per_s) or math.inf
    back = metrics[3]
    print()
    for one in measured[1:]:
        print(f"switch to {one.turn.mix}: first token after {1000 * one.first_token_s:.0f} ms")
    print(f"return to {A}: {back.cached_tokens} of {back.prompt_tokens} prompt tokens came from its cache")
    print(f"{speed(sum(m.generated_tokens for m in metrics) / seconds)} over the five answers")


def main() -> None:
    """The task's command; Typer turns what ends it into an exit code."""
    prepare_streams()

    def demo() -> None:
        """Run the demo."""
        with outcome(NAME):
            asyncio.run(demonstrate())

    typer.run(demo)


if __name__ == "__main__":
    main()
