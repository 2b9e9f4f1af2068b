"""Runs the session beside the screen: loads the engine and answers one entry at a time, in the order they came.

It knows no widget. What happens goes out through `emit`; what the reader wants comes in through `submit`, `cancel`
and `withdraw`. Prompts wait for the engine; commands wait only for what was sent before them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING

from mp13.chat.tui.events import (
    AnswerStopped,
    CommandDone,
    Entry,
    EntryFailed,
    EntryStarted,
    EntryWithdrawn,
)
from mp13.errors import ContextError, Mp13Error

if TYPE_CHECKING:
    from mp13.chat.conversation.ask import Ask
    from mp13.chat.conversation.session import ChatSession
    from mp13.chat.conversation.turn import Asked, SessionEvent, Turn
    from mp13.chat.tui.events import ChatEvent

NOT_SENT = "Not sent, because the engine did not start. Press Up in an empty prompt to bring it back."

KEPT = "What came of the answer is kept; /continue goes on with it."


class Conductor:
    def __init__(self, emit: Callable[[ChatEvent], object]) -> None:
        self._emit = emit
        self._waiting: deque[Entry] = deque()
        self._news = asyncio.Event()
        self._loading: asyncio.Task[None] | None = None
        self._serving: Entry | None = None
        self._current: asyncio.Task[None] | None = None
        self._session: ChatSession | None = None

    async def run(self, session: ChatSession) -> None:
        """Serve until cancelled, then let the session go."""
        self._session = session
        self._begin_loading(session)
        try:
            while True:
                entry = await self._next_entry()
                self._serving = entry
                self._emit(EntryStarted(entry))
                self._current = asyncio.create_task(self._serve(session, entry))
                await asyncio.wait({self._current})
                if self._current.cancelled():  # before it had begun
                    self._emit(AnswerStopped(entry, {}))
                self._serving = None
        finally:
            await _end(self._current)
            await _end(self._loading)
            await session.close()

    def submit(self, text: str, ask: Ask | None = None) -> Entry:
        """Put a prompt or command at the end of the line, or an `ask` that `text` describes."""
        entry = Entry(text, ask)
        self._waiting.append(entry)
        self._news.set()
        return entry

    @property
    def pending(self) -> list[Entry]:
        """What runs or waits, in its order."""
        return [*filter(None, [self._serving]), *self._waiting]

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

    @property
    def is_switching(self) -> bool:
        """Whether an engine loads that is to take the place of one that worked."""
        is_loading = self._loading is not None and not self._loading.done()
        return is_loading and self._session is not None and self._session.is_switching

    def switch_back(self) -> None:
        """Stop that; the one that worked comes up again."""
        if self.is_switching and self._session is not None and self._loading is not None:
            self._session.switch_back()
            self._begin_loading(self._session, after=self._loading)

    def withdraw(self) -> Entry | None:
        """Take back the entry that was sent last, if it still waits."""
        if not self._waiting:
            return None
        entry = self._waiting.pop()
        self._emit(EntryWithdrawn(entry))
        return entry

    def forget(self, entry: Entry) -> bool:
        """Do not begin `entry`, if it still waits; whether it did."""
        waits = entry in self._waiting
        if waits:
            self._waiting.remove(entry)
        return waits

    async def _next_entry(self) -> Entry:
        while True:
            loaded = self._loading is not None and self._loading.done()
            if self._waiting and (loaded or self._waiting[0].is_command):
                return self._waiting.popleft()
            self._news.clear()
            await self._news.wait()

    def _begin_loading(self, session: ChatSession, after: asyncio.Task[None] | None = None) -> None:
        """`after` is what loads now, which nobody wants any more."""
        self._loading = asyncio.create_task(self._load(session, after))
        self._loading.add_done_callback(lambda _: self._news.set())

    async def _load(self, session: ChatSession, after: asyncio.Task[None] | None) -> None:
        from mp13.chat.conversation.turn import EngineFailed

        await _end(after)
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
        from mp13.chat.conversation.ask import Ask

        asking = _Asking(session)
        try:
            ask = await self._command(session, entry) if entry.is_command else entry.ask or Ask(prompt_of(entry.text))
            if ask is not None:
                async for event in asking.events(ask):
                    self._emit(event)
        except asyncio.CancelledError:
            self._emit(AnswerStopped(entry, asking.partial()))
        except Exception as error:  # whatever it is, the reader gets a sentence and can type on
            remedy = asking.remedy() if isinstance(error, ContextError) else None
            partial = asking.partial()
            kept = f"\n{KEPT}" if len(partial) == 1 else ""
            self._emit(EntryFailed(entry, _sentence(error) + kept, partial, remedy))

    async def _command(self, session: ChatSession, entry: Entry) -> Ask | None:
        """Run a command; what it wants to be answered."""
        result = await session.command(entry.text)
        if result.ask is None:
            self._emit(CommandDone(entry, result))
            if result.engine_changed:
                self._begin_loading(session, after=self._loading)
        return result.ask


class _Asking:
    """The answers of one entry, and what had come of them when they were over before their end."""

    def __init__(self, session: ChatSession) -> None:
        self._session = session
        self._asked: Asked | None = None
        self._before: set[str] = set()
        self._dropped_oldest = False

    async def events(self, ask: Ask) -> AsyncGenerator[SessionEvent]:
        from mp13.chat.conversation.turn import Asked

        self._dropped_oldest = ask.drops_oldest
        async with aclosing(self._session.answer(ask)) as events:
            async for event in events:
                if isinstance(event, Asked):
                    self._asked, self._before = event, {turn.id for turn in self._session.answers}
                yield event

    def partial(self) -> dict[str, Turn]:
        """By mix."""
        if self._asked is None:
            return {}
        return {turn.mix: turn for turn in self._session.answers if turn.id not in self._before}

    def remedy(self) -> Ask | None:
        """The same without the oldest exchanges, if that was not tried and there are any."""
        from mp13.chat.conversation.ask import Ask

        if self._asked is None or self._dropped_oldest or len(self._session.turns) < 2:
            return None
        return Ask(mixes=self._asked.mixes, turn=self._asked.prompt.id, drops_oldest=True)


def _sentence(error: Exception) -> str:
    return str(error) if isinstance(error, Mp13Error) else f"This should not happen: {type(error).__name__}: {error}"


async def _end(task: asyncio.Task[None] | None) -> None:
    if task is not None:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
