"""The one screen of the chat: transcript, prompt, status line. What the session tells becomes widgets in `on_happened`.

How a turn looks is widgets/turns.py; when a prompt is answered is the conductor's.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Vertical
from textual.screen import Screen
from textual.widgets import Footer
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
from mp13.chat.tui.palette import mix_voices
from mp13.chat.tui.screens.help import HelpScreen
from mp13.chat.tui.screens.picker import AdapterPicker
from mp13.chat.tui.tables import choices, diff_content, engine_rows, suggestions
from mp13.chat.tui.widgets.completion import Completion, Suggestion
from mp13.chat.tui.widgets.prompt import Prompt
from mp13.chat.tui.widgets.status import StatusLine
from mp13.chat.tui.widgets.transcript import Drawing, Transcript
from mp13.chat.tui.widgets.turns import Notice, row_of
from mp13.mix import BASE

if TYPE_CHECKING:
    from mp13.chat.conversation.session import ChatSession
    from mp13.chat.conversation.turn import CommandResult, Turn

LOOK_S = 2.0  # between two looks at what adapters have become
OpenSession = Callable[[], Awaitable["ChatSession"]]


class ConversationScreen(Screen[None]):
    """`open_session` is awaited once the first frame is on the screen; if it raises, the app exits with the error."""

    AUTO_FOCUS = "Prompt"
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (60, "-wide")]
    VERTICAL_BREAKPOINTS = [(0, "-short"), (18, "-tall")]
    BINDINGS = [
        Binding("escape", "stop", "Stop"),
        Binding("ctrl+o,f2", "pick_adapter", "Adapters"),
        Binding("f1", "help", "Help"),
        Binding("ctrl+n", "new", "New", show=False),
    ]

    def __init__(self, open_session: OpenSession) -> None:
        super().__init__(classes="-wide -tall")  # the usual, so that the first frame is not styled twice
        self._open_session = open_session
        self._conductor = Conductor(lambda event: self.post_message(Happened(event)))
        self._session: ChatSession | None = None
        self._worker: Worker[None] | None = None
        self._transcript = Transcript()
        self._completion = Completion(self._suggest)
        self._prompt = Prompt(self._completion)
        self._status = StatusLine()
        self._dialogue = Dialogue(self._transcript, self._path)
        self._answered: Entry | None = None  # what is being answered
        self._offers_stop = False

    def compose(self) -> ComposeResult:
        yield self._transcript
        with Vertical(id="desk"):
            yield self._completion
            yield self._prompt
            yield self._status
        yield Footer(compact=True, show_command_palette=False)

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
        from mp13.chat.conversation.turn import AnswerDone, Asked, EngineFailed, EngineReady, LoadProgress, TextDelta

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
                self._dialogue.begin(entry)
            case Asked() as asked if self._answered is not None:
                await self._dialogue.ask(self._answered, asked)
            case TextDelta(text, index) if self._answered is not None:
                self._dialogue.feed(self._answered, text, index)
            case AnswerDone(turn, index) if self._answered is not None:
                await self._dialogue.end(self._answered, turn, index)
                self._tell_cost(turn)
            case AnswerStopped(entry, partial):
                await self._dialogue.stop(entry, partial)
                self._tell(loading=None)
            case EntryFailed(entry, reason, partial):
                await self._dialogue.fail(entry, reason, partial)
                self._tell(loading=None)
                self._tell_mix()
            case EntryWithdrawn(entry):
                await self._dialogue.withdraw(entry)
                self._prompt.offer(entry.text)
            case CommandDone(entry, result):
                await self._command_done(entry, result)
        self._offer_stop()

    async def _opened(self, session: ChatSession) -> None:
        self._session = session
        if turns := list(session.turns):
            self._tell_cost(turns[-1])
            await self._transcript.show(self._path())
        self._tell(model=Path(session.settings.model).name)
        self._tell_mix()
        self.set_interval(LOOK_S, self._tell_mix)  # what is remarkable about an adapter comes by itself

    async def _command_done(self, entry: Entry, result: CommandResult) -> None:
        assert self._session is not None
        if result.quit:
            self.app.exit()
        if result.turns_changed:
            await self._dialogue.redraw()
            self._tell(tokens_per_s=None, cached_tokens=None, context_tokens=None)
            if turns := self._session.turns:
                self._tell_cost(turns[-1])
        await self._dialogue.settle(entry, result.message if result.diff is None else diff_content(result.diff))
        self._tell_mix()

    def _path(self) -> list[Drawing]:
        return [row_of(turn) for turn in self._session.turns] if self._session is not None else []

    @property
    def _mix(self) -> str:
        return self._session.mix if self._session is not None else BASE

    def _tell(self, **changes: Any) -> None:
        self._status.status = replace(self._status.status, **changes)

    def _tell_mix(self) -> None:
        remarks = self._session.remarks if self._session is not None else []
        self._tell(mix=self._mix, remarks=tuple(f"{remark.name}: {remark.label}" for remark in remarks if remark.label))
        self._prompt.set_classes(mix_voices(self._mix)[0])

    def _tell_cost(self, turn: Turn) -> None:
        if (cost := turn.metrics) is not None:
            used = cost.prompt_tokens + cost.generated_tokens
            self._tell(tokens_per_s=cost.tokens_per_s, cached_tokens=cost.cached_tokens, context_tokens=used)

    @on(Prompt.Sent)
    async def _prompt_sent(self, event: Prompt.Sent) -> None:
        if event.text == "/quit":
            self.app.exit()
        elif event.text == "/help":
            self.action_help()
        elif event.text == "/adapter":
            self.action_pick_adapter()
        else:
            await self._submit(event.text)

    async def _submit(self, text: str | None) -> None:
        if text is not None:
            waiting = not self._conductor.is_idle
            await self._dialogue.send(self._conductor.submit(text), waiting)
            self._offer_stop()

    def _offer_stop(self) -> None:
        """Let the footer show Esc while there is something to stop; it is drawn anew, so not with every token."""
        if self._offers_stop != self._conductor.is_busy:
            self._offers_stop = self._conductor.is_busy
            self.refresh_bindings()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        return self._completion.is_open or self._conductor.is_busy if action == "stop" else True

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

    async def action_new(self) -> None:
        await self._submit("/new")

    @on(Prompt.PageTurned)
    def _turn_page(self, event: Prompt.PageTurned) -> None:
        transcript = self._transcript
        if transcript.max_scroll_y > 0:
            (transcript.scroll_page_up if event.pages < 0 else transcript.scroll_page_down)(animate=False)
