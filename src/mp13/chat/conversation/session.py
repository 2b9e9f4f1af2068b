"""One conversation with one engine: the core under TUI and command line, without any screen.

It keeps the mix and the system prompt and says what may be done when. The turns are conversation/tree.py, going from
one branch to another conversation/session_path.py, what is asked of the engine conversation/asking.py, reaching it
conversation/connection.py; what slash commands do is commands/.
"""

from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing
from typing import Any, Self

from mp13.chat.conversation.ask import Ask, answer_to_continue, begin, in_memory, next_prompt
from mp13.chat.conversation.connection import Connect, launch
from mp13.chat.conversation.diff import Diff
from mp13.chat.conversation.replay import Replay
from mp13.chat.conversation.room import Room
from mp13.chat.conversation.session_path import SessionPath
from mp13.chat.conversation.store import ConversationStore
from mp13.chat.conversation.turn import CommandResult, EngineFailed, Keeping, SessionEvent, TextDelta, Turn
from mp13.chat.settings.load import COMMAND_LINE, change_settings
from mp13.chat.settings.schema import Settings
from mp13.chat.text import utf8
from mp13.errors import ConfigError, Mp13Error
from mp13.library.adapters import find_adapters
from mp13.mix import BASE, parse_mix
from mp13.service.schema import CountReport


class ChatSession(SessionPath):
    """The state of a chat and what can be done with it. Use it from one event loop.

    `settings` are replaced (never changed) by `/set`; the canonical `mix` and the system prompt `system`, or None, are
    those of the next prompt.
    """

    @classmethod
    def open(cls, settings: Settings, resume: str | None = None, connect: Connect = launch) -> Self:
        """A session with its store (none when `settings.log` is off), going on with the conversation `resume`.

        `resume` is "latest", an id or the beginning of one; None starts a new conversation. A resumed conversation's
        mix and system prompt give way to those of the command line.

        A new conversation goes on without a store where that cannot be opened; `not_kept` says why, and that is left as
        it is.

        Raises:
            Mp13Error: there is no such conversation, or the store cannot be opened.
        """
        store, problem = None, None
        try:
            store = ConversationStore() if settings.log else None
        except Mp13Error as error:
            if resume is not None:
                raise
            problem = str(error)
        session = cls(settings, store, connect)
        session._no_store = problem
        if resume is not None:
            asked_for = {key for key in ("adapter", "system") if settings.source(key) == COMMAND_LINE}
            mix, system = session.mix, session.system
            session.resume(resume)
            session.mix = mix if "adapter" in asked_for else session.mix
            session.system = system if "system" in asked_for else session.system
        return session

    async def start(self) -> AsyncGenerator[SessionEvent]:
        """Bring the engine up: LoadProgress…, then EngineReady or EngineFailed. Nothing to do when it runs. Installs
        the starter first where it is the model and not there yet. Where it was to take the place of another engine and
        fails, the settings are that one's again, and it comes up. Never raises an Mp13Error."""
        await self._idle.stop()
        falls_back = True
        while falls_back:
            falls_back = False
            async with aclosing(self._connection.start(self.settings)) as events:
                async for event in events:
                    falls_back = isinstance(event, EngineFailed) and event.falls_back
                    yield event
            if falls_back:  # other settings may have changed meanwhile, and stay so
                self.settings = self._connection.fallback(self.settings) or self.settings
        self.warm()

    async def answer(self, ask: Ask) -> AsyncGenerator[SessionEvent]:
        """Have something answered: Asked, TextDelta…, then an AnswerDone for each mix; the first mix's answer is kept.

        Where no engine runs, or another than the settings ask for, one is started first (LoadProgress…, EngineReady);
        one that died unseen is restarted once. A prompt is stored before anything else happens, and answers while they
        come. When the caller cancels or closes the iterator, or the engine dies in the middle, the partial answer is
        `turns[-1]`, stored and marked "abort". A Keeping comes when storing begins to fail, or works again.

        Raises:
            Mp13Error: there is nothing such to answer; nothing changed. Or it cannot be answered; a new prompt stays in
                `turns` then, but is not sent again. A ContextError: it would be, with `drops_oldest`.
        """
        if self._is_answering:
            raise Mp13Error("the last answer is still being written; wait for it or stop it first")
        conversation = in_memory(self._conversation) if ask.is_preview else self._conversation
        continued = answer_to_continue(conversation) if ask.continues else None
        self._is_answering = True
        try:
            asked = begin(conversation, ask, self.mix, self.system)
            yield asked
            for keeping in self._keeping():
                yield keeping
            if continued is not None:
                yield TextDelta(continued.text)
            await self._idle.stop()
            written = self._asking.write(self.settings, conversation, asked.mixes, continued, ask.drops_oldest)
            async with aclosing(written) as events:
                async for event in events:
                    yield event
            for keeping in self._keeping():
                yield keeping
        finally:
            self._is_answering = False
            conversation.end_asking()
            if self.engine is None:  # it did not come up
                self.settings = self._connection.fallback(self.settings) or self.settings
        self.warm()

    async def ask(self, text: str) -> AsyncGenerator[SessionEvent]:
        """Have `text` answered as the next prompt, under the current mix."""
        async with aclosing(self.answer(Ask(text))) as events:
            async for event in events:
                yield event

    async def compare(self, mixes: Sequence[str], text: str | None = None) -> AsyncGenerator[SessionEvent]:
        """Let several mixes answer `text`, or the last prompt again, side by side; events carry the mix's place.
        Raises Mp13Error as `answer` does, and for fewer than two mixes."""
        if len(mixes) < 2:
            raise ConfigError(f"{', '.join(mixes) or 'nothing'} cannot be compared; name two different mixes or more")
        async with aclosing(self.answer(Ask(text, tuple(mixes)))) as events:
            async for event in events:
                yield event

    def _keeping(self) -> Iterator[Keeping]:
        """What is new about it."""
        if self._told_of_keeping != (problem := self._conversation.keeper.failure):
            self._told_of_keeping = problem
            yield Keeping(problem)

    async def room(self, mix: str) -> Room:
        """How much of the conversation leaves room for an answer of `mix` to its last prompt."""
        return await self._asking.room(self.settings, self.tree.asked, mix)

    async def count(self, text: str) -> CountReport | None:
        """The tokens that the model would read if `text` were asked now; None while no engine runs."""
        if self.engine is None:
            return None
        return await self._asking.count(
            self.turns, next_prompt(self._conversation, self.turns, text, self.mix, self.system)
        )

    @property
    def is_counted(self) -> bool:
        """Whether the last answer's metrics tell what `read` would: this model made it, of the same exchanges."""
        last, prompt = self.turns[-1], self._conversation.prompt
        made = last.provenance
        is_other = made is not None and self.engine is not None and made.model != self.engine.model
        return last.metrics is not None and not is_other and (prompt is None or last.skipped == prompt.skipped)

    async def read(self) -> int | None:
        """The tokens of the path as the model would read it to go on; None while no engine runs, or nothing was said.
        Raises Mp13Error where the engine cannot tell."""
        path = self._conversation.asked
        if self.engine is None or not path:
            return None
        last = self.turns[-1]
        await self._asking.load(self.settings, (last.mix,), fresh=False)
        report = await self._asking.count(path[:-1], path[-1], last if last.role == "assistant" else None)
        return report.prompt_tokens

    async def diff(self, other: str | None = None) -> Diff:
        """How the mix of the last answer and `other` (default: the base) judge each of its tokens.

        Raises:
            Mp13Error: there is no answer, it is the base's and `other` is left out, or it cannot be scored.
        """
        answer = self.turns[-1] if self.turns else None
        if answer is None or answer.role != "assistant" or not answer.token_ids:
            raise ConfigError("there is no answer to take apart; ask something first")
        beside = str(parse_mix(other or BASE))
        if beside == answer.mix:
            raise ConfigError(f"the last answer is {beside}'s own; name another mix to see it beside")
        await self._idle.stop()
        diff = await self._asking.diff(self.settings, self._conversation.asked, answer, beside)
        self.warm()
        return diff

    async def replay(self, answer: Turn) -> Replay:
        """Make an answer again from its provenance, and compare; nothing is stored.

        Raises:
            Mp13Error: it is no answer, what made it is not known, or one of its adapters is gone.
        """
        await self._idle.stop()
        replay = await self._asking.replay(self.settings, self.tree.path_before(answer), answer)
        self.warm()
        return replay

    async def reload(self, name: str | None = None) -> list[str]:
        """Load again what changed on disk, `name` or all that did; returns the names. Running answers keep the old.
        Raises Mp13Error when no engine runs, or an adapter cannot be loaded; the old one goes on working."""
        names = [name] if name is not None else self._connection.changed()
        await self._connection.load(names, self.settings.adapter_folders, fresh=True)
        self.warm()
        return names

    def warm(self) -> None:
        """While the reader thinks, compute the history under the mix and those that answered in it, unless any mix's
        cache will do. Gives way to everything."""
        if self.engine is not None and self.settings.kv_policy == "exact" and not self._is_answering:
            conversation = self._conversation
            self._idle.begin(lambda: self._asking.prefill(self.settings, conversation, self.mix, self.system))

    async def command(self, line: str) -> CommandResult:
        """Run a slash command such as `/adapter a:0.7`. Raises Mp13Error when it is unknown (with a suggestion; nothing
        is run), has a bad value, or did not work; nothing changed then."""
        from mp13.chat.commands.table import run_command

        return await run_command(self, line)

    async def set_mix(self, text: str, *, despite_pin: bool = False) -> str:
        """Answer under the mix `text` from now on; returns its canonical form.

        With an engine running, the adapters it lacks are loaded. Without one, they are looked up on disk and
        loaded with the next prompt.

        Raises:
            Mp13Error: not a mix, no such adapter, unfit, or (but for `despite_pin`) another is pinned. The mix is as
                before.
        """
        mix = parse_mix(text)
        if not despite_pin and (pin := self._conversation.pin) is not None and pin != str(mix):
            raise ConfigError(f"{pin} is pinned to this branch; /pin - lets you choose again")
        if self._connection.runs(self.settings):
            await self._asking.load(self.settings, (text,), fresh=True)
        else:
            find_adapters(mix.names, self.settings.adapter_folders)
        self.mix = str(mix)
        self.warm()
        return self.mix

    def set_system(self, text: str | None) -> None:
        """Use `text` as the system prompt from the next prompt on; None leaves it out."""
        self.system = utf8(text) if text else None
        self.warm()

    async def change_settings(self, **changes: Any) -> bool:
        """Put `changes` (values may be text) into the settings, the mix and the system prompt included; whether they
        ask for another engine, which `start`, or the next prompt, brings up.

        Raises:
            Mp13Error: a key is unknown, a value cannot be used, or no engine could run with it. Nothing changed.
        """
        settings = change_settings(self.settings, changes, "this chat")
        is_other = settings.engine_config() != self.settings.engine_config()
        await self._connection.check(settings)
        if settings.log != self.settings.log:
            raise ConfigError("log cannot change in a running chat; start it with --no-log")
        if "adapter" in changes:
            await self.set_mix(settings.adapter)
        if "system" in changes:
            self.set_system(settings.system)
        self.settings = settings
        return is_other

    async def end_engine(self) -> None:
        """End the engine; `start` brings up one with the same settings.

        Raises:
            Mp13Error: an answer is being written, an adapter is being trained, or another chat uses the engine.
        """
        if self._is_answering:
            raise Mp13Error("the answers are still being written; wait for them or stop them first")
        self.training.require_none()
        await self._idle.stop()
        await self._connection.end()

    @property
    def is_switching(self) -> bool:
        """Whether the engine that the settings ask for is to take the place of one that worked."""
        return self._connection.fallback(self.settings) is not None

    def switch_back(self) -> None:
        """Ask for the engine again that worked last."""
        self.settings = self._connection.fallback(self.settings) or self.settings

    def watch(self, watcher: Callable[[], None]) -> None:
        """Call `watcher` when `warming` or the engine's state has changed."""
        self._watcher = watcher

    async def close(self) -> None:
        """Let the engine go (it ends with its last chat) and close the store."""
        await self._idle.stop()
        await self.training.close()
        await self._connection.close()
        self._conversation.keeper.flush()
        if self._store is not None:
            self._store.close()
