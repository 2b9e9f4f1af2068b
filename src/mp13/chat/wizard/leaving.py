"""A question with two answers over the screen, asked before something is lost or passed over."""

from __future__ import annotations

from dataclasses import dataclass

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Horizontal, Vertical
from textual.screen import ModalScreen
from textual.widgets import Button, Static


@dataclass(frozen=True)
class Question:
    """`no` is what Esc means, and what has the focus at first."""

    title: str
    text: str
    yes: str
    no: str


class QuestionDialog(ModalScreen[bool]):
    """Gives True for yes."""

    BINDINGS = [
        Binding("escape,n", "dismiss(False)", "No"),
        Binding("y", "dismiss(True)", "Yes"),
        Binding("left,right", "app.focus_next", show=False),
    ]

    def __init__(self, question: Question) -> None:
        super().__init__()
        self.question = question

    def compose(self) -> ComposeResult:
        with Vertical(id="question") as dialog:
            dialog.border_title = self.question.title
            dialog.border_subtitle = f"Esc {self.question.no.lower()} · Y {self.question.yes.lower()}"
            yield Static(self.question.text, markup=False)
            with Horizontal():
                yield Button(self.question.no, id="no", variant="primary", compact=True)
                yield Button(self.question.yes, id="yes", compact=True)

    @on(Button.Pressed)
    def _pressed(self, event: Button.Pressed) -> None:
        event.stop()
        self.dismiss(event.button.id == "yes")
