"""The frame of the conversation's screen: three regions, status line and keys, and how the focus moves among them.

What is asked and answered in it is screens/conversation.py's.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from textual import events, on, work
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.screen import Screen

from mp13.chat.tui.engine_life import EngineLife
from mp13.chat.tui.events import Entry
from mp13.chat.tui.keymap import bind
from mp13.chat.tui.outlook import Watch
from mp13.chat.tui.palette import mix_voices
from mp13.chat.tui.tables import shelf_of
from mp13.chat.tui.widgets.completion import Completion, Suggestion
from mp13.chat.tui.widgets.key_line import KeyLine
from mp13.chat.tui.widgets.panel import Panel
from mp13.chat.tui.widgets.prompt import Prompt
from mp13.chat.tui.widgets.reasoning import toggle_all
from mp13.chat.tui.widgets.regions import Regions
from mp13.chat.tui.widgets.status import StatusLine
from mp13.chat.tui.widgets.turn_cursor import TurnCursor
from mp13.chat.tui.widgets.turns import Notice
from mp13.errors import Mp13Error
from mp13.mix import BASE

if TYPE_CHECKING:
    from mp13.chat.conversation.session import ChatSession
    from mp13.chat.conversation.training import ChatTraining
    from mp13.chat.conversation.turn import Turn
    from mp13.chat.settings.schema import Settings

LOOK_S = 2.0  # between two looks at what is on disk


class Frame(Screen[None]):
    AUTO_FOCUS = "Prompt"
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (60, "-wide")]
    VERTICAL_BREAKPOINTS = [(0, "-short"), (18, "-tall")]
    BINDINGS = [
        bind("conversations.panel", "toggle_conversations", "Conversations", priority=True),
        bind("adapters.panel", "toggle_adapters", "Adapters", priority=True),
        bind("adapters.base", "switch(0)", priority=True),
        *(bind(f"adapters.nth_{n}", f"switch({n})", priority=True) for n in range(1, 10)),
        bind("regions.next", "app.focus_next"),
        bind("regions.previous", "app.focus_previous"),
        bind("answer.thoughts", "toggle_thoughts", priority=True),
        bind("chat.theme", "choose_theme", priority=True),
    ]

    def __init__(self) -> None:
        super().__init__(classes="-wide -tall")  # the usual, so that the first frame is not styled twice
        self._session: ChatSession | None = None
        self._transcript = TurnCursor()
        self._completion = Completion(self._suggest)
        self._prompt = Prompt(self._completion)
        self._status = StatusLine()
        self._watch = Watch()
        self._life = EngineLife()
        self._obeyed: tuple[str, dict[str, str]] = ("", {})  # theme and keys, as the settings had them last

    def compose(self) -> ComposeResult:
        desk = Vertical(self._completion, self._prompt, id="desk")
        self._regions = Regions(Vertical(self._transcript, desk, id="middle"), self.app.size.width)
        yield self._regions
        yield self._status
        yield KeyLine()

    @abstractmethod
    def _suggest(self, line: str) -> list[Suggestion]:
        """How the slash command `line` can go on."""

    @abstractmethod
    def _run_quietly(self, command: str) -> Entry:
        """Run a slash command that the reader did not type and that asks nothing: it is seen where it was chosen."""

    @property
    @abstractmethod
    def _is_settled(self) -> bool:
        """Whether nothing that was sent waits or runs."""

    async def _furnish(self, session: ChatSession) -> None:
        """The core is there: fill the panels, and look at what changes by itself from now on."""
        self._session = session
        self._obey(session.settings)
        self._tell_mix()
        self._prompt.open(session)
        await self._regions.open(session)
        self._look()
        self.set_interval(LOOK_S, self._look)
        session.watch(self._tell_outlook)

    def _obey(self, settings: Settings) -> None:
        """Look as the settings say, and take the keys that they name."""
        before, self._obeyed = self._obeyed, (settings.theme, dict(settings.keys))
        if before[0] != settings.theme:
            self.app.theme = settings.theme
        if before[1] != settings.keys:
            self.app.set_keymap(settings.keys)
            self._transcript.welcome.draw()
            self._regions.entitle()

    def _tell(self, **changes: Any) -> None:
        self._status.status = replace(self._status.status, **changes)

    def _tell_cost(self, turn: Turn) -> None:
        """What the path that ends with `turn` takes of the context; the engine counts where the turn does not say."""
        if (cost := turn.metrics) is not None:
            used = cost.prompt_tokens + cost.generated_tokens
            self._tell(tokens_per_s=cost.tokens_per_s, cached_tokens=cost.cached_tokens, context_tokens=used)
        else:
            self._tell(tokens_per_s=None, cached_tokens=None)
        if self._session is not None and not self._session.is_counted:
            self._count_path(self._session, turn)

    @work(group="count", exclusive=True)
    async def _count_path(self, session: ChatSession, turn: Turn) -> None:
        with suppress(Mp13Error):  # what is wrong with the engine is said elsewhere
            used = await session.read()
            if session.turns[-1:] == [turn]:
                self._tell(context_tokens=used)

    def _tell_end(self) -> None:
        """As `_tell_cost`, of where the path ends now."""
        if self._session is not None and self._session.turns:
            self._tell_cost(self._session.turns[-1])
        else:
            self._tell(tokens_per_s=None, cached_tokens=None, context_tokens=None)

    @property
    def _mix(self) -> str:
        return self._session.mix if self._session is not None else BASE

    def _tell_mix(self) -> None:
        remarks = self._session.remarks if self._session is not None else []
        self._tell(mix=self._mix, remarks=tuple(f"{remark.name}: {remark.label}" for remark in remarks if remark.label))
        self._prompt.set_classes(mix_voices(self._mix)[0])
        self._tell_outlook()

    def _tell_outlook(self) -> None:
        if self._session is not None:
            if self._session.engine is None:  # what it had computed is gone with it
                self._watch.moved()
            self._tell(**self._life.look(self._session.state))
            outlook = self._watch.look(self._session)
            self._tell(warmth=outlook.warmth, pinned=self._session.pin is not None)
            self._regions.adapters.tell(outlook, self._is_settled)
            self._tell_training(self._session.training)

    def _tell_training(self, training: ChatTraining) -> None:
        state = training.state
        self._tell(training=state.short if state is not None and training.is_on else "")
        for sentence in training.take_news():
            has_failed = state is not None and state.phase == "failed"
            self.run_worker(self._transcript.add(Notice(sentence, "error" if has_failed else "info")))

    def _look(self) -> None:
        """See what has become of adapters and conversations."""
        self._tell_mix()
        if self._session is not None:
            self._tell(is_kept=self._session.not_kept is None)
            self._regions.conversations.draw()
            if self._regions.adapters.display or not self._transcript.rows:
                self._look_at_shelf(self._session)

    @work(group="look", exclusive=True)
    async def _look_at_shelf(self, session: ChatSession) -> None:
        shelf = await asyncio.to_thread(shelf_of, session)
        self._regions.adapters.show(shelf)
        self._transcript.welcome.tell([one.adapter.name for one in shelf if not one.adapter.unfit])

    async def action_toggle_conversations(self) -> None:
        await self._regions.toggle(self._regions.conversations)

    async def action_toggle_adapters(self) -> None:
        await self._regions.toggle(self._regions.adapters)
        self._look()

    def action_toggle_thoughts(self) -> None:
        toggle_all(self._transcript)

    def action_switch(self, place: int) -> None:
        """Let the adapter at `place` of the list, from 1, answer from now on; 0 is the base."""
        if self._session is None:
            return
        names = [BASE, *(adapter.name for adapter in self._session.available_adapters())]
        if place < len(names) and self._regions.adapters.is_attached:
            self._regions.adapters.choose(names[place])
        elif place < len(names):
            self._run_quietly(f"/adapter {names[place]}")
        else:
            self.notify(f"There is no adapter {place}; the list has {len(names) - 1}.")

    def action_choose_theme(self) -> None:
        from mp13.chat.tui.screens.themes import ThemePicker

        self.app.push_screen(ThemePicker())

    @on(Panel.Wanted)
    def _wanted(self, event: Panel.Wanted) -> None:
        self._run_quietly(event.command)

    @on(Panel.Left)
    def _left(self) -> None:
        self._prompt.focus()

    def on_key(self, event: events.Key) -> None:
        """What is typed where nobody takes it goes to the prompt."""
        if event.is_printable and event.character and event.key not in self.active_bindings:
            self._prompt.focus()
            self._prompt.insert(event.character)
            event.stop()

    def on_paste(self, event: events.Paste) -> None:
        if not self._prompt.has_focus:
            self._prompt.focus()
            self._prompt.paste(event.text)
            event.stop()

    @on(Prompt.PageTurned)
    def _turn_page(self, event: Prompt.PageTurned) -> None:
        transcript = self._transcript
        if transcript.max_scroll_y > 0:
            (transcript.scroll_page_up if event.pages < 0 else transcript.scroll_page_down)(animate=False)
