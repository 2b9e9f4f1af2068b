"""What forms have in common: a field a line, with a note beside it, and keys that go from one to the next."""

from __future__ import annotations

from abc import abstractmethod

from textual import on
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.widgets import Input, Label, Static

from mp13.chat.text import one_line
from mp13.chat.tui.keymap import bind, hints
from mp13.chat.tui.screens.dialog import Dialog
from mp13.chat.tui.widgets.fields import ChoiceField


class FormField(Horizontal):
    def __init__(self, key: str, value: str, note: str = "") -> None:
        super().__init__(classes="field")
        self.key = key
        self._note_text = note
        self.input = ChoiceField()
        self.input.value = value
        self.input.select_on_focus = False
        self._note = Static(Content(one_line(note)), markup=False, classes="note")

    def compose(self) -> ComposeResult:
        yield Label(Content(one_line(self.key)), markup=False)
        yield self.input
        yield self._note

    def complain(self, problem: str) -> None:
        """Say what is wrong with the value; "" where nothing is."""
        self._note.update(Content(one_line(problem or self._note_text)))
        self._note.set_class(bool(problem), "-wrong")


class Form(Dialog[str | None]):
    """Gives a command, or None."""

    BINDINGS = [
        bind("dialog.close", "dismiss(None)", "Close"),
        bind("dialog.up", "app.focus_previous", priority=True),
        bind("dialog.down", "app.focus_next", priority=True),
    ]
    TITLE_TEXT = ""
    WORDS = {"keep": "keep", "close": "close"}

    @abstractmethod
    def fields(self) -> list[FormField]:
        """In the order in which they stand."""

    def compose(self) -> ComposeResult:
        self._fields = self.fields()
        with Vertical(id=type(self).__name__.removesuffix("Screen").lower(), classes="dialog form") as dialog:
            dialog.border_title = Content(one_line(self.title_text))
            dialog.border_subtitle = hints(self, **self.WORDS)
            with VerticalScroll(can_focus=False):
                yield from self._fields
            yield from self.below()

    def below(self) -> ComposeResult:
        """What stands under the fields."""
        yield Static(markup=False, classes="about")

    @property
    def title_text(self) -> str:
        return self.TITLE_TEXT

    def tell(self, text: str, is_wrong: bool = False) -> None:
        about = self.query_one(".about", Static)
        about.update(Content(one_line(text)))
        about.set_class(is_wrong, "-wrong")

    @on(Input.Submitted)
    def _submitted(self) -> None:
        self.keep()

    @abstractmethod
    def keep(self) -> None:
        """Close with the command, or say what is wrong."""
