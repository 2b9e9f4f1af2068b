"""One conversation with one engine: the core under TUI and command line, without any screen.

It keeps the turns, the mix and the system prompt, and stores turns as they happen. Reaching the engine and keeping
it alive is conversation/connection.py; what slash commands do is commands/.
"""

import secrets
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any, Self

from mp13.chat.conversation.answer import Writing, messages_of
from mp13.chat.conversation.connection import Connect, EngineConnection, available_adapters, find_adapters, launch
from mp13.chat.conversation.store import ConversationStore
from mp13.chat.conversation.turn import (
    AnswerDone,
    CommandResult,
    EngineFailed,
    SessionEvent,
    TextDelta,
    Turn,
)
from mp13.chat.settings.load import COMMAND_LINE, change_settings
from mp13.chat.settings.schema import Settings
from mp13.chat.text import utf8
from mp13.errors import ConfigError, Mp13Error
from mp13.library.adapters import AdapterOnDisk
from mp13.mix import parse_mix
from mp13.service.schema import (
    AdapterInfo,
    EngineInfo,
    GenerateRequest,
    SamplingParams,
)


@dataclass
class _Conversation:
    """The turns of one conversation. An answer keeps its own, whatever /new does while it is written."""

    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    turns: list[Turn] = field(default_factory=list)


class ChatSession:
    """The state of a chat and what can be done with it. Use it from one event loop.

    Attributes:
        settings: replaced (never changed) by `/set`.
        mix: the canonical mix that answers the next prompt.
        system: the system prompt of the next prompt, or None.
    """

    def __init__(self, settings: Settings, store: ConversationStore | None, connect: Connect = launch) -> None:
        """Raises MixError when `settings.adapter` is no mix. With `store` None nothing is kept."""
        self.settings = settings
        self.mix = str(parse_mix(settings.adapter))
        self.system = settings.system
        self._store = store
        self._connection = EngineConnection(connect)
        self._conversation = _Conversation()
        self._asking = False

    @classmethod
    def open(cls, settings: Settings, resume: str | None = None, connect: Connect = launch) -> Self:
        """A session with its store (none when `settings.log` is off), going on with the conversation `resume`.

        `resume` is "latest", an id or the beginning of one; None starts a new conversation. A resumed conversation's
        mix and system prompt give way to those of the command line.

        Raises:
            Mp13Error: the data folder cannot be written, or there is no such conversation.
        """
        session = cls(settings, ConversationStore() if settings.log else None, connect)
        if resume is not None:
            asked_for = {key for key in ("adapter", "system") if settings.source(key) == COMMAND_LINE}
            mix, system = session.mix, session.system
            session.resume(resume)
            session.mix = mix if "adapter" in asked_for else session.mix
            session.system = system if "system" in asked_for else session.system
        return session

    @property
    def store(self) -> ConversationStore | None:
        return self._store

    @property
    def conversation_id(self) -> str:
        return self._conversation.id

    @property
    def turns(self) -> list[Turn]:
        """The path from the first turn to the last, oldest first."""
        return self._conversation.turns

    @property
    def engine(self) -> EngineInfo | None:
        """The running engine, or None while there is none."""
        return self._connection.engine

    @property
    def adapters(self) -> list[AdapterInfo]:
        """What the engine has loaded."""
        return self._connection.adapters

    def available_adapters(self) -> list[AdapterOnDisk]:
        """The adapters in `settings.adapter_folders`; of two with one name, the first folder's."""
        return available_adapters(self.settings.adapter_folders)

    @property
    def warnings(self) -> list[str]:
        """What the engine has to say about the adapters of the mix, such as that they were trained on another base."""
        names = parse_mix(self.mix).names
        return [f"{info.name}: {warning}" for info in self.adapters if info.name in names for warning in info.warnings]

    async def start(self) -> AsyncGenerator[SessionEvent]:
        """Bring the engine up: LoadProgress…, then EngineReady or EngineFailed. Nothing to do when it runs.

        Installs the starter first where it is the model and not there yet. Never raises an Mp13Error.
        """
        async with aclosing(self._connection.start(self.settings)) as events:
            async for event in events:
                yield event

    async def ask(self, text: str) -> AsyncGenerator[SessionEvent]:
        """Answer `text` under the current mix: TextDelta…, then AnswerDone.

        Where no engine runs, or another than the settings ask for, one is started first (LoadProgress…, EngineReady);
        one that died unseen is restarted once. The user turn is stored before anything else happens. When the caller
        cancels or closes the iterator, or the engine dies in the middle, the partial answer is `turns[-1]`, stored and
        marked "abort".

        Raises:
            Mp13Error: the prompt cannot be answered; the user turn stays in `turns` but is not sent again.
        """
        if not text.strip():
            raise ConfigError("the prompt is empty; say something")
        if self._asking:
            raise Mp13Error("the last answer is still being written; wait for it or stop it first")
        self._asking = True
        try:
            conversation = self._conversation
            parent = conversation.turns[-1].id if conversation.turns else None
            self._add(conversation, Turn("user", utf8(text), self.mix, parent, self.system))
            async with aclosing(self._answer(conversation)) as events:
                async for event in events:
                    yield event
        finally:
            self._asking = False

    async def command(self, line: str) -> CommandResult:
        """Run a slash command such as `/adapter a:0.7`.

        Raises:
            Mp13Error: unknown (with a suggestion; nothing is run), a bad value, or it did not work. Nothing changed.
        """
        from mp13.chat.commands.table import run_command

        return await run_command(self, line)

    async def set_mix(self, text: str) -> str:
        """Answer under the mix `text` from now on; returns its canonical form.

        With an engine running, the adapters it lacks are loaded. Without one, they are looked up on disk and
        loaded with the next prompt.

        Raises:
            Mp13Error: not a mix, no such adapter, or unfit. The mix is as before.
        """
        mix = parse_mix(text)
        if self._connection.runs(self.settings):
            await self._connection.load(mix, self.settings.adapter_folders, fresh=True)
        else:
            find_adapters(mix.names, self.settings.adapter_folders)
        self.mix = str(mix)
        return self.mix

    def set_system(self, text: str | None) -> None:
        """Use `text` as the system prompt from the next prompt on; None leaves it out."""
        self.system = utf8(text) if text else None

    async def change_settings(self, **changes: Any) -> None:
        """Put `changes` (values may be text) into the settings, the mix and the system prompt included.

        Raises:
            Mp13Error: a key is unknown or a value cannot be used. Nothing changed.
        """
        settings = change_settings(self.settings, changes, "/set")
        settings.engine_config()
        if settings.log != self.settings.log:
            raise ConfigError("log cannot change in a running chat; start it with --no-log")
        if "adapter" in changes:
            await self.set_mix(settings.adapter)
        if "system" in changes:
            self.set_system(settings.system)
        self.settings = settings

    def new(self) -> None:
        """Start a new conversation. Mix, system prompt and engine stay."""
        self._conversation = _Conversation()

    def resume(self, wanted: str) -> None:
        """Go on with a stored conversation, under its last mix and system prompt; `wanted` as for `open`.

        Raises:
            Mp13Error: nothing is stored, or there is no such conversation.
        """
        if self._store is None:
            raise ConfigError("conversations are not kept in this chat; start it without --no-log")
        id = self._store.find(wanted)
        self._conversation = _Conversation(id, self._store.path_to_latest(id))
        asked = next(turn for turn in reversed(self.turns) if turn.role == "user")
        self.mix, self.system = asked.mix, asked.system

    async def close(self) -> None:
        """Let the engine go (it ends with its last chat) and close the store."""
        await self._connection.close()
        if self._store is not None:
            self._store.close()

    def _add(self, conversation: _Conversation, turn: Turn) -> None:
        if self._store is not None:
            self._store.add(conversation.id, turn)
        conversation.turns.append(turn)

    async def _answer(self, conversation: _Conversation) -> AsyncGenerator[SessionEvent]:
        from mp13.service.client import EngineGone

        messages = messages_of(conversation.turns)
        request = GenerateRequest(messages=messages, adapters=self.mix, sampling=self._sampling())
        for may_restart in (True, False):
            writing = Writing(request.adapters, conversation.turns[-1].id)
            try:
                async for progress in self._bring_up():
                    yield progress
                await self._connection.load(parse_mix(request.adapters), self.settings.adapter_folders, fresh=False)
                async with aclosing(self._connection.client.generate(request)) as events:
                    async for event in events:
                        if delta := writing.add(event):
                            yield TextDelta(delta)
            except EngineGone:
                await self._connection.close()
                if writing.token_ids or not may_restart:
                    raise
            else:
                break
            finally:
                if (turn := writing.turn()) is not None:
                    self._add(conversation, turn)
        yield AnswerDone(conversation.turns[-1])

    def _sampling(self) -> SamplingParams:
        """With a seed in any case, so that what is stored is enough to make the answer again."""
        sampling = self.settings.sampling()
        return sampling if sampling.seed is not None else replace(sampling, seed=secrets.randbits(32))

    async def _bring_up(self) -> AsyncGenerator[SessionEvent]:
        if self._connection.runs(self.settings):
            return
        async with aclosing(self.start()) as events:
            async for event in events:
                if isinstance(event, EngineFailed):
                    raise event.error
                yield event
