"""The engine's life in the words of the status line: loading, restarting, busy, out of memory, ended."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mp13.errors import Mp13Error, OutOfMemory

if TYPE_CHECKING:
    from mp13.chat.conversation.connection import EngineState

_AGAIN = "/restart"


def problem(error: Mp13Error | None) -> str:
    """Why there is no engine, in two words, and what brings one back."""
    return f"{'out of memory' if isinstance(error, OutOfMemory) else 'no engine'} · {_AGAIN}"


class EngineLife:
    def __init__(self) -> None:
        self._was_lost = False  # since the last that was ready
        self._model: str | None = None  # of that one

    def look(self, state: EngineState) -> dict[str, str | None]:
        """What of the status line is to change."""
        if state.phase == "ended":
            self._was_lost = True
            ended = f"engine ended · {_AGAIN}"
            return {"problem": problem(state.error) if isinstance(state.error, OutOfMemory) else ended, "busy": ""}
        if state.phase == "ready":
            self._was_lost = False
            return {"busy": _busy(state), "problem": ""}  # whatever brought it up
        return {"busy": ""}

    def is_another(self, model: str) -> bool:
        """Whether the engine that is ready has a `model` other than the one before it."""
        before, self._model = self._model, model
        return before is not None and before != model

    def stage(self, stage: str) -> str:
        """The `stage` of a load, which may follow on an end."""
        return f"restarting · {stage}" if self._was_lost else stage


def _busy(state: EngineState) -> str:
    """How many requests it works on and how many wait, of all its chats."""
    if not state.running and not state.waiting:
        return ""
    count = f" with {state.running}" if state.running > 1 else ""
    waiting = f", {state.waiting} waiting" if state.waiting else ""
    return f"busy{count}{waiting}"
