"""The one screen of the chat. What the session tells becomes widgets in `on_happened`.

Where they stand is screens/frame.py's, how a turn looks widgets/turns.py's; when a prompt is answered the conductor's.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING

from textual.worker import Worker, WorkerError

from mp13.chat.text import printable
from mp13.chat.tui.conductor import Conductor
from mp13.chat.tui.dialogs import Dialogs
from mp13.chat.tui.dialogue import Dialogue
from mp13.chat.tui.engine_life import problem
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
from mp13.chat.tui.live import Live
from mp13.chat.tui.screens.entry_frame import EntryFrame
from mp13.chat.tui.widgets.columns import Columns
from mp13.chat.tui.widgets.transcript import Drawing
from mp13.chat.tui.widgets.turns import Notice, row_of
from mp13.mix import BASE

if TYPE_CHECKING:
    from mp13.chat.conversation.session import ChatSession
    from mp13.chat.conversation.turn import CommandResult, EngineFailed, EngineReady, LoadNote, LoadProgress, Turn

OpenSession = Callable[[], Awaitable["ChatSession"]]


class ConversationScreen(EntryFrame):
    """`open_session` is awaited once the first frame is on the screen; if it raises, the app exits with the error."""

    BINDINGS = [
        bind("answer.stop", "stop", "Stop"),
        bind("adapters.pick", "enter('/adapter')", priority=True),
        bind("conversations.new", "new", priority=True),
        bind("chat.sampling", "enter('/sampling')", priority=True),
        bind("chat.model", "enter('/model')", priority=True),
        bind("chat.help", "help", "Help", priority=True),
    ]

    def __init__(self, open_session: OpenSession) -> None:
        super().__init__()
        self._open_session = open_session
        self._conductor = Conductor(lambda event: self.post_message(Happened(event)))
        self._worker: Worker[None] | None = None
        self._dialogue = Dialogue(self._transcript, self._path)
        self._live = Live(self._conductor, self._transcript)
        self._answered: Entry | None = None  # what is being answered
        self._quiet: set[Entry] = set()  # commands that have no row
        self._offers_stop = False
        self._dialogs = Dialogs(self, self._submit, lambda: self._conductor.pending)

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
            LoadNote,
            LoadProgress,
            TextDelta,
        )

        if await self._live.took(message.event):
            self._tell_live()
            return
        match message.event:
            case SessionOpened(session):
                await self._opened(session)
            case LoadProgress() | LoadNote() | EngineReady() | EngineFailed() as event:
                await self._engine_told(event)
            case EntryStarted(entry):
                self._answered = entry
                if entry not in self._quiet:
                    self._dialogue.begin(entry)
            case Asked() as asked if self._answered is not None:
                self._undone = 0
                self._watch.moved()
                await self._dialogue.ask(self._answered, asked)
                if len(asked.mixes) > 1 and not self._prompt.text:
                    self._transcript.query(Columns).last().focus(scroll_visible=False)
            case TextDelta(text, index) if self._answered is not None:
                self._dialogue.feed(self._answered, text, index)
            case AnswerDone(turn, index) if self._answered is not None:
                await self._dialogue.end(self._answered, turn, index)
                self._tell_places()
                self._tell_cost(turn)
                self._watch.answered(turn.mix)
                self._look()
            case Keeping(reason):
                await self._keeping(reason)
            case AnswerStopped(entry, partial):
                await self._dialogue.stop(entry, partial)
                self._tell_over()
            case EntryFailed(entry, reason) if entry in self._told:
                self._told.discard(entry)
                self.notify(printable(reason), severity="warning", markup=False)
            case EntryFailed(entry, reason, partial, remedy):
                await self._dialogue.fail(entry, reason, partial)
                if remedy is not None and not partial:
                    self.run_worker(self._offer_remedy(entry, remedy))
                self._tell_over()
                self._look()
            case EntryWithdrawn(entry) if entry not in self._quiet:
                await self._dialogue.withdraw(entry)
                self._prompt.offer(entry.text)
            case CommandDone(entry, result):
                await self._command_done(entry, result)
        self._offer_stop()

    def _tell_over(self) -> None:
        """It came to an end before its time."""
        self._tell_places()
        self._tell_end()
        self._tell(loading=None)

    async def _engine_told(self, event: LoadProgress | LoadNote | EngineReady | EngineFailed) -> None:
        from mp13.chat.conversation.turn import EngineFailed, LoadNote, LoadProgress

        if isinstance(event, LoadNote):
            await self._transcript.add(Notice(event.text))
        elif isinstance(event, LoadProgress):
            self._tell(loading=self._life.stage(event.stage), fraction=event.fraction, problem="")
        elif isinstance(event, EngineFailed):
            self._tell(loading=None, problem="" if event.falls_back else problem(event.error))
            await self._transcript.add(Notice(event.message, "error"))
        else:
            info = event.info
            self._tell(loading=None, problem="", model=Path(info.model).name, context_limit=info.max_model_len)
            self._tell_end()
            if self._life.is_another(info.model) and self._mix != BASE:
                self._run_quietly(f"/adapter {self._mix}")  # says so where an adapter does not fit it

    async def _opened(self, session: ChatSession) -> None:
        await self._furnish(session)
        if session.turns:
            self._tell_end()
            await self._transcript.show(self._path())
            self.refresh_bindings()  # there are turns to go to
        self._tell(model=Path(session.settings.model).name)
        if session.not_kept:
            await self._keeping(session.not_kept)

    async def _keeping(self, problem: str | None) -> None:
        from mp13.chat.conversation.remarks import keeping_text

        await self._transcript.add(Notice(keeping_text(problem), "error" if problem else "info"))

    async def _command_done(self, entry: Entry, result: CommandResult) -> None:
        assert self._session is not None
        self._obey(self._session.settings)
        if result.copied is not None:
            self.app.copy_to_clipboard(result.copied)
        if result.quit:
            self.app.exit()
        if result.turns_changed:
            await self._live.drop()
            self._watch.moved()
            await self._follow()
        self._tell_end()
        message = result.message
        if result.report is not None:
            message = result.report.summary if result.report.is_news else ""
            from mp13.chat.tui.screens.report import ReportScreen

            self.app.push_screen(ReportScreen(result.report))
        if result.diff is not None:
            await self._take_apart(entry, result.diff)
        elif entry in self._told:
            self._told.discard(entry)
            self.notify(printable(result.message), markup=False)
        elif entry not in self._quiet:
            await self._dialogue.settle(entry, message)
        elif remarks := [str(remark) for remark in self._session.remarks if result.mix_changed]:
            await self._transcript.add(Notice("\n".join(remarks)))
        if result.mix_changed and not result.turns_changed and result.ask is None:
            self._live.follow(self._session)
        self._look()

    def _path(self, before: Turn | None = None) -> list[Drawing]:
        if (session := self._session) is None:
            return []
        turns = takewhile(lambda turn: before is None or turn.id != before.id, session.turns)
        return [row_of(turn, session.place(turn)) for turn in turns]

    async def _redraw(self, at: int | None) -> None:
        await self._dialogue.redraw(at)

    @property
    def _is_settled(self) -> bool:
        return not self._conductor.is_busy

    def _offer_stop(self) -> None:
        """Let the footer show Esc while there is something to stop; it is drawn anew, so not with every token."""
        if self._offers_stop != self._can_stop:
            self._offers_stop = self._can_stop
            self.refresh_bindings()

    @property
    def _can_stop(self) -> bool:
        return self._conductor.is_busy or self._conductor.is_switching

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if action == "stop":
            return self._completion.is_open or self._edited is not None or self._can_stop
        return super().check_action(action, parameters)

    def action_stop(self) -> None:
        """Close the completion, else leave what is edited as it was, else stop the answer, else take back the prompt
        that waits, else the model's switch."""
        if self._completion.is_open:
            self._completion.close()
        elif self._edited is not None:
            self._leave_edit()
        elif not self._conductor.cancel() and self._conductor.withdraw() is None and self._conductor.is_switching:
            self._conductor.switch_back()
            self.notify("The model stays the one before, which loads again.")

    @property
    def is_idle(self) -> bool:
        """Whether the engine is up (or has failed) and everything sent is settled."""
        return self._conductor.is_idle
