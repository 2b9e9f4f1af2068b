"""The dialogs that stand for a command without its argument: each gives the whole command, which goes the usual way."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from textual.screen import Screen

from mp13.chat.tui.events import Entry
from mp13.errors import Mp13Error

if TYPE_CHECKING:
    from mp13.chat.conversation.session import ChatSession

Submit = Callable[[str | None], Awaitable[None]]


class Dialogs:
    """`pending` gives what runs or waits."""

    def __init__(self, screen: Screen[None], submit: Submit, pending: Callable[[], list[Entry]]) -> None:
        self._screen = screen
        self._submit = submit
        self._pending = pending

    def open(self, session: ChatSession, line: str) -> bool:
        """Open the dialog of the command `line`; whether it has one."""
        word, _, argument = line.strip().partition(" ")
        if word == "/template" and argument:
            return self._open_template(session, argument.strip())
        if argument:
            return False
        if word == "/adapter":
            from mp13.chat.tui.screens.picker import AdapterPicker, choices

            picker = AdapterPicker(choices(session), session.mix)
            self._screen.app.push_screen(picker, lambda mix: self._submit(f"/adapter {mix}" if mix else None))
        elif word == "/sampling":
            from mp13.chat.tui.screens.sampling import SamplingScreen

            self._screen.app.push_screen(SamplingScreen(session.settings, session.given), self._submit)
        elif word == "/model":
            self._screen.run_worker(self._open_models(session.settings.model), exclusive=True, group="models")
        elif word == "/train":
            self._open_training(session)
        else:
            return False
        return True

    def _open_training(self, session: ChatSession) -> None:
        """How it goes, else what to train."""
        from mp13.chat.tui.screens.train_form import TrainScreen
        from mp13.chat.tui.screens.training import TrainingScreen

        if session.training.is_on:
            self._screen.app.push_screen(TrainingScreen(session))
        elif any(entry.text.startswith("/train ") for entry in self._pending()):
            self._screen.notify("The training is about to begin.")
        else:
            self._screen.app.push_screen(TrainScreen(session), self._submit)

    async def _open_models(self, now: str) -> None:
        from mp13.chat.commands.setups import models_here
        from mp13.chat.tui.screens.models import ModelPicker

        found = await asyncio.to_thread(models_here, now)
        self._screen.app.push_screen(ModelPicker(found, now), self._submit)

    def _open_template(self, session: ChatSession, argument: str) -> bool:
        """Ask for what is not known; where nothing is missing, or something cannot be used, the command says so."""
        from mp13.chat.commands.everyday import known_values
        from mp13.chat.commands.setups import values_of, words_of
        from mp13.chat.settings.templates import find_template
        from mp13.chat.tui.screens.template import TemplateForm

        try:
            name, *words = words_of("/template", argument)
            template, given = find_template(name), values_of("/template", words)
        except Mp13Error:
            return False
        if not given.keys() <= set(template.variables):
            return False
        known = known_values(session, template.variables) | given
        if selected := self._screen.get_selected_text():
            known |= {"selection": selected} if "selection" in template.variables else {}
        if not set(template.variables) - set(known) and "selection" not in known:
            return False
        self._screen.app.push_screen(TemplateForm(template, known), self._submit)
        return True
