"""What dialogs have in common that have a list under a line to type in: typing says what is listed, Enter takes a row.

What is listed, and what taking it means, is each one's own.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TypeVar

from textual import on
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content
from textual.widgets import Input, OptionList, Static

from mp13.chat.text import one_line
from mp13.chat.tui.keymap import bind, hints
from mp13.chat.tui.screens.dialog import Dialog
from mp13.chat.tui.widgets.fields import ChoiceField

T = TypeVar("T")


class Choosing(Dialog[T]):
    """The line keeps the focus; Up and Down move the mark in the list."""

    BINDINGS = [
        bind("dialog.close", "dismiss(None)", "Close"),
        bind("dialog.up", "move(-1)", priority=True),
        bind("dialog.down", "move(1)", priority=True),
    ]
    ID = ""
    QUESTION = ""
    PLACEHOLDER = ""
    WORDS = {"keep": "choose", "close": "close"}

    def compose(self) -> ComposeResult:
        with Vertical(id=self.ID, classes="dialog choosing") as dialog:
            dialog.border_title = self.QUESTION
            dialog.border_subtitle = hints(self, **self.WORDS)
            yield ChoiceField(self.PLACEHOLDER)
            yield OptionList(markup=False, compact=True)
            yield Static(markup=False, classes="problem")

    def on_mount(self) -> None:
        self.options.can_focus = False
        self.look("")

    @property
    def options(self) -> OptionList:
        return self.query_one(OptionList)

    @property
    def typed(self) -> str:
        return self.query_one(Input).value.strip()

    @abstractmethod
    def look(self, text: str) -> None:
        """List what belongs to what is typed."""

    @abstractmethod
    def take(self, row: int) -> None:
        """The row is chosen."""

    def enter(self) -> None:
        """Enter was pressed."""
        if (row := self.options.highlighted) is not None:
            self.take(row)

    def tell(self, sentence: str) -> None:
        """Say something under the list; "" says nothing."""
        problem = self.query_one(".problem", Static)
        problem.update(Content(one_line(sentence)))
        problem.display = bool(sentence)

    def action_move(self, step: int) -> None:
        self.options.action_cursor_up() if step < 0 else self.options.action_cursor_down()

    @on(Input.Changed)
    def _typed(self) -> None:
        self.tell("")
        self.look(self.typed)

    @on(Input.Submitted)
    def _entered(self) -> None:
        self.enter()

    @on(OptionList.OptionSelected)
    def _clicked(self, event: OptionList.OptionSelected) -> None:
        self.take(event.option_index)
