"""What the reader enters, by the prompt or a list, goes its way here: to a dialog, to the app, or to the conductor.

What comes of it is screens/conversation.py's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual import on

from mp13.chat.tui.conductor import Conductor
from mp13.chat.tui.dialogs import Dialogs
from mp13.chat.tui.events import Entry
from mp13.chat.tui.screens.mix_frame import MixFrame
from mp13.chat.tui.tables import engine_rows, suggestions
from mp13.chat.tui.widgets.completion import Suggestion
from mp13.chat.tui.widgets.prompt import Prompt

if TYPE_CHECKING:
    from mp13.chat.conversation.ask import Ask


class EntryFrame(MixFrame):
    _conductor: Conductor
    _dialogs: Dialogs
    _quiet: set[Entry]

    @on(Prompt.Sent)
    async def _prompt_sent(self, event: Prompt.Sent) -> None:
        if (ask := self._edit_of(event.text)) is not None:
            await self._submit(event.text, ask)
        else:
            await self._enter(event.text)

    async def _enter(self, line: str) -> None:
        """Do what was entered; some commands have a dialog here."""
        if line == "/quit":
            self.app.exit()
        elif line == "/help":
            self.action_help()
        elif line == "/find":
            self.action_search()
        elif self._session is None or not self._dialogs.open(self._session, line):
            await self._submit(line)

    async def _submit(self, text: str | None, ask: Ask | None = None) -> None:
        if text is not None:
            await self._live.drop()
            self._tell_live()
            waiting = not self._conductor.is_idle
            await self._dialogue.send(self._conductor.submit(text, ask), waiting)
            self._offer_stop()

    def _run_quietly(self, command: str) -> Entry:
        self._live.stop()
        entry = self._conductor.submit(command)
        self._quiet.add(entry)
        return entry

    def action_help(self) -> None:
        engine = self._session.engine if self._session is not None else None
        commands = [(suggestion.label, suggestion.help) for suggestion in self.commands()]
        from mp13.chat.tui.screens.help import HelpScreen

        self.app.push_screen(HelpScreen(commands, engine_rows(engine) if engine is not None else []))

    def commands(self) -> list[Suggestion]:
        """Every slash command, for help and palette; none until the session is open."""
        return self._suggest("/")

    def _suggest(self, line: str) -> list[Suggestion]:
        return suggestions(self._session, line) if self._session is not None else []

    def write(self, text: str) -> None:
        """Put `text` in the prompt, for the reader to go on."""
        self._prompt.focus()
        self._prompt.show(text)

    async def choose(self, value: str) -> None:
        """A command was chosen from a list: one that may have an argument is for the reader to go on with."""
        if value.endswith(" "):
            self.write(value)
        else:
            await self._enter(value)

    async def action_enter(self, line: str) -> None:
        if self._session is None:
            self.notify("One moment: the chat is still starting.")
        else:
            await self._enter(line)

    async def action_new(self) -> None:
        await self._submit("/new")
