"""The one screen of the chat. What the session tells becomes widgets in `on_happened`.

Where they stand is screens/frame.py's, how a turn looks widgets/turns.py's; when a prompt is answered the conductor's.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from textual import on
from textual.worker import Worker, WorkerError

from mp13.chat.tui.conductor import Conductor
from mp13.chat.tui.dialogue import Dialogue
from mp13.chat.tui.events import (
    AnswerStopped,
    CommandDone,
    Entry,
    EntryFailed,
    EntryStarted,
    EntryWithdrawn,
    Happened,
    SessionOpened,
)
from mp13.chat.tui.keymap import bind
from mp13.chat.tui.screens.frame import Frame
from mp13.chat.tui.screens.help import HelpScreen
from mp13.chat.tui.screens.picker import AdapterPicker
from mp13.chat.tui.tables import choices, diff_content, engine_rows, suggestions
from mp13.chat.tui.widgets.completion import Suggestion
from mp13.chat.tui.widgets.prompt import Prompt
from mp13.chat.tui.widgets.transcript import Drawing
from mp13.chat.tui.widgets.turns import Notice, row_of

if TYPE_CHECKING:
    from mp13.chat.conversation.session import ChatSession
    from mp13.chat.conversation.turn import CommandResult, Turn

OpenSession = Callable[[], Awaitable["ChatSession"]]


class ConversationScreen(Frame):
    """`open_session` is awaited once the first frame is on the screen; if it raises, the app exits with the error."""

    BINDINGS = [
        bind("answer.stop", "stop", "Stop"),
        bind("adapters.pick", "pick_adapter", priority=True),
        bind("conversations.new", "new", priority=True),
        bind("chat.help", "help", "Help", priority=True),
    ]

    def __init__(self, open_session: OpenSession) -> None:
        super().__init__()
        self._open_session = open_session
        self._conductor = Conductor(lambda event: self.post_message(Happened(event)))
        self._worker: Worker[None] | None = None
        self._dialogue = Dialogue(self._transcript, self._path)
        self._answered: Entry | None = None  # what is being answered
        self._quiet: set[Entry] = set()  # commands that have no row
        self._offers_stop = False

    def on_mount(self) -> None:
        self.call_after_refresh(self._begin)

    def _begin(self) -> None:
        self._worker = self.run_worker(self._converse)

    async def on_unmount(self) -> None:
        """Leave nothing behind: a running answer is kept, and the engine let go, before the app ends."""
        if self._worker is not None:
            self._worker.cancel()
            with suppress(WorkerError):
                await self._worker.wait()

    async def _converse(self) -> None:
        try:
            session = await self._open_session()
        except Exception as error:
            self.app.exit(error)
            return
        self.post_message(Happened(SessionOpened(session)))
        await self._conductor.run(session)

    async def on_happened(self, message: Happened) -> None:
        from mp13.chat.conversation.turn import (
            AnswerDone,
            Asked,
            EngineFailed,
            EngineReady,
            Keeping,
            LoadProgress,
            TextDelta,
        )

        match message.event:
            case SessionOpened(session):
                await self._opened(session)
            case LoadProgress(stage, fraction):
                self._tell(loading=stage, fraction=fraction, problem="")
            case EngineReady(info):
                self._tell(loading=None, problem="", model=Path(info.model).name, context_limit=info.max_model_len)
            case EngineFailed() as failure:
                self._tell(loading=None, problem="" if failure.falls_back else "no engine")
                await self._transcript.add(Notice(failure.message, "error"))
            case EntryStarted(entry):
                self._answered = entry
                if entry not in self._quiet:
                    self._dialogue.begin(entry)
            case Asked() as asked if self._answered is not None:
                self._watch.moved()
                await self._dialogue.ask(self._answered, asked)
            case TextDelta(text, index) if self._answered is not None:
                self._dialogue.feed(self._answered, text, index)
            case AnswerDone(turn, index) if self._answered is not None:
                await self._dialogue.end(self._answered, turn, index)
                self._tell_cost(turn)
                self._watch.answered(turn.mix)
                self._look()
            case Keeping(problem):
                await self._keeping(problem)
            case AnswerStopped(entry, partial):
                await self._dialogue.stop(entry, partial)
                self._tell(loading=None)
            case EntryFailed(entry, reason, partial):
                await self._dialogue.fail(entry, reason, partial)
                self._tell(loading=None)
                self._look()
            case EntryWithdrawn(entry) if entry not in self._quiet:
                await self._dialogue.withdraw(entry)
                self._prompt.offer(entry.text)
            case CommandDone(entry, result):
                await self._command_done(entry, result)
        self._offer_stop()

    async def _opened(self, session: ChatSession) -> None:
        await self._furnish(session)
        if turns := session.turns:
            self._tell_cost(turns[-1])
            await self._transcript.show(self._path())
        self._tell(model=Path(session.settings.model).name)
        if session.not_kept:
            await self._keeping(session.not_kept)

    async def _keeping(self, problem: str | None) -> None:
        from mp13.chat.conversation.remarks import keeping_text

        await self._transcript.add(Notice(keeping_text(problem), "error" if problem else "info"))

    async def _command_done(self, entry: Entry, result: CommandResult) -> None:
        assert self._session is not None
        self._obey(self._session.settings)
        if result.quit:
            self.app.exit()
        if result.turns_changed:
            self._watch.moved()
            await self._dialogue.redraw()
            self._tell(tokens_per_s=None, cached_tokens=None, context_tokens=None)
            if turns := self._session.turns:
                self._tell_cost(turns[-1])
        message = result.message if result.diff is None else diff_content(result.diff)
        if entry not in self._quiet:
            await self._dialogue.settle(entry, message)
        elif remarks := [str(remark) for remark in self._session.remarks if result.mix_changed]:
            await self._transcript.add(Notice("\n".join(remarks)))
        self._look()

    def _path(self) -> list[Drawing]:
        return [row_of(turn) for turn in self._session.turns] if self._session is not None else []

    def _tell_cost(self, turn: Turn) -> None:
        if (cost := turn.metrics) is not None:
            used = cost.prompt_tokens + cost.generated_tokens
            self._tell(tokens_per_s=cost.tokens_per_s, cached_tokens=cost.cached_tokens, context_tokens=used)

    @on(Prompt.Sent)
    async def _prompt_sent(self, event: Prompt.Sent) -> None:
        await self._enter(event.text)

    async def _enter(self, line: str) -> None:
        """Do what was entered; some commands have a dialog here."""
        if line == "/quit":
            self.app.exit()
        elif line == "/help":
            self.action_help()
        elif line == "/adapter":
            self.action_pick_adapter()
        else:
            await self._submit(line)

    async def _submit(self, text: str | None) -> None:
        if text is not None:
            waiting = not self._conductor.is_idle
            await self._dialogue.send(self._conductor.submit(text), waiting)
            self._offer_stop()

    def _run_quietly(self, command: str) -> None:
        self._quiet.add(self._conductor.submit(command))

    @property
    def _is_settled(self) -> bool:
        return not self._conductor.is_busy

    def _offer_stop(self) -> None:
        """Let the footer show Esc while there is something to stop; it is drawn anew, so not with every token."""
        if self._offers_stop != self._conductor.is_busy:
            self._offers_stop = self._conductor.is_busy
            self.refresh_bindings()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if action == "stop":
            return self._completion.is_open or self._conductor.is_busy
        return super().check_action(action, parameters)

    def action_stop(self) -> None:
        """Close the completion, else stop the answer, else take back the prompt that waits."""
        if self._completion.is_open:
            self._completion.close()
        elif not self._conductor.cancel():
            self._conductor.withdraw()

    def action_pick_adapter(self) -> None:
        if (session := self._session) is None:
            self.notify("One moment: the chat is still starting.")
            return
        self.app.push_screen(
            AdapterPicker(choices(session), session.mix),
            lambda mix: self._submit(f"/adapter {mix}" if mix else None),
        )

    def action_help(self) -> None:
        engine = self._session.engine if self._session is not None else None
        commands = [(suggestion.label, suggestion.help) for suggestion in self.commands()]
        self.app.push_screen(HelpScreen(commands, engine_rows(engine) if engine is not None else []))

    def commands(self) -> list[Suggestion]:
        """Every slash command, for help and palette; none until the session is open."""
        return self._suggest("/")

    def _suggest(self, line: str) -> list[Suggestion]:
        return suggestions(self._session, line) if self._session is not None else []

    @property
    def is_idle(self) -> bool:
        """Whether the engine is up (or has failed) and everything sent is settled."""
        return self._conductor.is_idle

    def write(self, text: str) -> None:
        """Put `text` in the prompt, for the reader to go on."""
        self._prompt.show(text)

    async def choose(self, value: str) -> None:
        """A command was chosen from a list: one that may have an argument is for the reader to go on with."""
        if value.endswith(" "):
            self.write(value)
        else:
            await self._enter(value)

    async def action_new(self) -> None:
        await self._submit("/new")
