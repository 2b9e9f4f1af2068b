"""The command that trains an adapter beside the chat. The run is conversation/training.py's."""

import asyncio
import json
from typing import TYPE_CHECKING

from mp13.chat.commands.command import Command
from mp13.chat.commands.setups import words_of
from mp13.chat.conversation.turn import CommandResult, EngineFailed
from mp13.chat.text import one_line
from mp13.errors import ConfigError

if TYPE_CHECKING:
    from mp13.chat.conversation.session import ChatSession
    from mp13.chat.conversation.training_state import TrainingState

_VERBS = ("pause", "go on", "stop", "cancel", "wait", "status", "status --json")


async def _train(session: "ChatSession", argument: str) -> CommandResult:
    training = session.training
    verb = " ".join(argument.split())
    if verb in ("", "status"):
        return CommandResult(status_text(training.state))
    if verb == "status --json":
        return CommandResult(json.dumps(training.state and training.state.json))
    if verb == "pause":
        await training.pause()
        return CommandResult("training holds after this row; /train go on continues it")
    if verb == "go on":
        await training.go_on()
        return CommandResult("training goes on")
    if verb == "stop":
        await training.stop()
        return CommandResult("training ends; the adapter of the last whole step is kept")
    if verb == "cancel":
        await training.cancel()
        return CommandResult("training ends, and what it has saved goes")
    if verb == "wait":
        return CommandResult(await training.wait())
    return await _start(session, argument)


async def _start(session: "ChatSession", argument: str) -> CommandResult:
    from mp13.chat.conversation.training_order import checked_order

    session.training.require_none()
    words = words_of("/train", argument)
    plain = [word for word in words if not _is_setting(word)]
    if not 1 <= len(plain) <= 2:
        raise ConfigError(f"/train {argument} cannot be read; write /train FILE [NAME] [key=value…]")
    values = [(key, value) for key, _, value in (word.partition("=") for word in words if _is_setting(word))]
    name = plain[1] if len(plain) > 1 else None
    order = await asyncio.to_thread(checked_order, plain[0], name, values)
    if session.engine is None:
        async for event in session.start():
            if isinstance(event, EngineFailed):
                raise event.error
    await session.training.start(order)
    return CommandResult(
        f"{order.name} is being trained on {plain[0]}; /train shows how it goes, /adapter {order.name}@latest "
        "talks to it as soon as it has a version"
    )


def _is_setting(word: str) -> bool:
    return word.partition("=")[0].isidentifier() and "=" in word


def status_text(state: "TrainingState | None") -> str:
    """How a run stands, a line each."""
    if state is None:
        return "nothing is being trained; /train FILE [NAME] [key=value…] starts a run"
    from mp13.chat.library.shown import size
    from mp13.chat.library.train_view import duration

    lines = [state.sentence or state.short]
    if state.is_of_another and not state.sentence:
        lines += [f"another chat began it{f', on {state.source}' if state.source else ''}"]
    figures = [] if state.tokens_per_s is None else [f"{state.tokens_per_s:,.0f} tok/s"]
    figures += [] if state.memory_bytes is None else [size(state.memory_bytes)]
    figures += [] if state.seconds_left is None or state.sentence else [f"{duration(state.seconds_left)} left"]
    lines += [" · ".join(figures)] if figures else []
    lines += [f"evaluated: {state.evals[-1][1]:.4f} at step {state.evals[-1][0]}"] if state.evals else []
    lines += [f"versions: {', '.join(state.versions)}"] if state.versions else []
    lines += [f"note: {note}" for note in state.notes]
    for sample in state.samples:
        if sample.step:
            lines += [f"asked: {sample.prompt}", f"  base: {sample.base}", f"  step {sample.step}: {sample.learned}"]
    return "\n".join(map(one_line, lines))


def _choices(session: "ChatSession") -> list[str]:
    return list(_VERBS)


TRAINING_COMMANDS = (
    Command("/train", "[FILE [NAME] [KEY=VALUE…]|VERB]", "Train an adapter; pause, go on, stop, cancel.", _train,
            _choices),
)  # fmt: skip
