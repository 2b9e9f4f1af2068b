"""Runs the session beside the screen: loads the engine and answers one entry at a time, in the order they came.

It knows no widget. What happens goes out through `emit`; what the reader wants comes in through `submit`, `cancel`
and `withdraw`. Prompts wait for the engine; commands wait only for what was sent before them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from mp13.chat.tui.events import (
    AnswerStopped,
    CommandDone,
    ComparisonStarted,
    Entry,
    EntryFailed,
    EntryStarted,
    EntryWithdrawn,
)
from mp13.errors import Mp13Error
from mp13.mix import parse_mix

if TYPE_CHECKING:
    from mp13.chat.conversation.session import ChatSession
    from mp13.chat.conversation.turn import Turn
    from mp13.chat.tui.events import ChatEvent

NOT_SENT = "Not sent, because the engine did not start. Press Up in an empty prompt to bring it back."


class Conductor:
    def __init__(self, emit: Callable[[ChatEvent], object]) -> None:
        self._emit = emit
        self._waiting: deque[Entry] = deque()
        self._news = asyncio.Event()
        self._loading: asyncio.Task[None] | None = None
        self._current: asyncio.Task[None] | None = None

    async def run(self, session: ChatSession) -> None:
        """Serve until cancelled, then let the session go."""
        self._begin_loading(session)
        try:
            while True:
                entry = await self._next_entry()
                self._emit(EntryStarted(entry, session.mix))
                self._current = asyncio.create_task(self._serve(session, entry))
                await asyncio.wait({self._current})
        finally:
            await _end(self._current)
            await _end(self._loading)
            await session.close()

    def submit(self, text: str) -> Entry:
        """Put `text` at the end of the line."""
        entry = Entry(text)
        self._waiting.append(entry)
        self._news.set()
        return entry

    @property
    def is_busy(self) -> bool:
        """Whether something is being answered or waits."""
        return bool(self._waiting) or (self._current is not None and not self._current.done())

    @property
    def is_idle(self) -> bool:
        """Whether what is sent now starts at once."""
        return self._loading is not None and self._loading.done() and not self.is_busy

    def cancel(self) -> bool:
        """Stop what is running; what came of an answer is kept. False when nothing runs."""
        return self._current is not None and self._current.cancel()

    def withdraw(self) -> Entry | None:
        """Take back the entry that was sent last, if it still waits."""
        if not self._waiting:
            return None
        entry = self._waiting.pop()
        self._emit(EntryWithdrawn(entry))
        return entry

    async def _next_entry(self) -> Entry:
        while True:
            loaded = self._loading is not None and self._loading.done()
            if self._waiting and (loaded or self._waiting[0].is_command):
                return self._waiting.popleft()
            self._news.clear()
            await self._news.wait()

    def _begin_loading(self, session: ChatSession) -> None:
        self._loading = asyncio.create_task(self._load(session))
        self._loading.add_done_callback(lambda _: self._news.set())

    async def _load(self, session: ChatSession) -> None:
        from mp13.chat.conversation.turn import EngineFailed

        try:
            async for event in session.start():
                self._emit(event)
                if isinstance(event, EngineFailed) and not event.falls_back:
                    self._refuse_prompts()
        except Exception as error:  # a defect must not leave the reader before a screen that says nothing
            self._emit(EngineFailed(Mp13Error(_sentence(error))))
            self._refuse_prompts()

    def _refuse_prompts(self) -> None:
        for entry in [entry for entry in self._waiting if not entry.is_command]:
            self._waiting.remove(entry)
            self._emit(EntryFailed(entry, NOT_SENT))

    async def _serve(self, session: ChatSession, entry: Entry) -> None:
        from mp13.chat.commands.table import prompt_of

        before = {turn.id for turn in session.answers}

        def partial() -> dict[str, Turn]:
            return {turn.mix: turn for turn in session.answers if turn.id not in before}

        try:
            if entry.is_command:
                await self._command(session, entry)
            else:
                async for event in session.ask(prompt_of(entry.text)):
                    self._emit(event)
        except asyncio.CancelledError:
            self._emit(AnswerStopped(entry, partial()))
        except Exception as error:  # whatever it is, the reader gets a sentence and can type on
            self._emit(EntryFailed(entry, _sentence(error), partial()))

    async def _command(self, session: ChatSession, entry: Entry) -> None:
        result = await session.command(entry.text)
        if (asked := result.comparison) is None:
            self._emit(CommandDone(entry, result))
            if result.engine_changed:
                await _end(self._loading)  # of an engine that nobody wants any more
                self._begin_loading(session)
            return
        text = asked.text or next((turn.text for turn in reversed(session.turns) if turn.role == "user"), "")
        self._emit(ComparisonStarted(entry, tuple(str(parse_mix(mix)) for mix in asked.mixes), text))
        async for event in session.compare(asked.mixes, asked.text):
            self._emit(event)


def _sentence(error: Exception) -> str:
    return str(error) if isinstance(error, Mp13Error) else f"This should not happen: {type(error).__name__}: {error}"


async def _end(task: asyncio.Task[None] | None) -> None:
    if task is not None:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
