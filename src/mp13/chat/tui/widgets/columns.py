"""The answers of a comparison, side by side where there is room, else one under the other; a digit keeps one.

What keeping does is the slash command `/keep`'s.
"""

from __future__ import annotations

from textual import events
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.widgets import Static

from mp13.chat.tui.keymap import bind
from mp13.chat.tui.palette import mix_spans
from mp13.chat.tui.widgets.panel import Panel
from mp13.chat.tui.widgets.rows import FAINT
from mp13.chat.tui.widgets.turns import Answer

NARROWEST = 30  # cells of a column


class Columns(Horizontal, can_focus=True):
    """Has the focus while its keys are meant; what else is typed goes to the prompt."""

    BINDINGS = [
        *(bind(f"comparison.keep_{n}", f"keep({n})", "Keep the first" if n == 1 else "") for n in range(1, 10)),
        bind("comparison.leave", "leave", "Back"),
    ]

    def __init__(self, answers: list[Answer]) -> None:
        super().__init__()
        self.answers = answers

    def compose(self) -> ComposeResult:
        for number, answer in enumerate(self.answers, start=1):
            yield Column(number, answer)

    @property
    def is_settled(self) -> bool:
        return all(answer.is_settled for answer in self.answers)

    @property
    def turn(self) -> None:
        """No one turn."""

    def tell_place(self, place: tuple[int, int]) -> None:
        """What stands beside these answers is not walked to from here."""

    def again(self) -> Columns:
        return Columns([answer.again() for answer in self.answers])

    async def drop(self, answer: Answer) -> None:
        """Nothing came of `answer`: take its column away."""
        self.answers.remove(answer)
        await self.column_of(answer).remove()
        self.on_resize()

    def column_of(self, answer: Answer) -> Column:
        return next(column for column in self.query(Column) if column.answer is answer)

    def on_resize(self) -> None:
        self.set_class(self.size.width < NARROWEST * len(self.answers), "-stacked")

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if action == "keep":
            return isinstance(parameters[0], int) and parameters[0] <= len(self.answers)
        return action != "leave" or self.is_settled

    def action_keep(self, number: int) -> None:
        kept = self.answers[number - 1]
        for column in self.query(Column):
            column.set_class(column.answer is not kept, "-let-go")
        self.post_message(Panel.Wanted(f"/keep {kept.mix}"))
        self.post_message(Panel.Left())

    def action_leave(self) -> None:
        self.post_message(Panel.Left())


class Column(Vertical):
    """An answer under the digit that keeps it, which can be clicked too."""

    def __init__(self, number: int, answer: Answer) -> None:
        super().__init__()
        self.answer = answer
        self._number = number

    def compose(self) -> ComposeResult:
        head = Content.assemble((f"{self._number} ", FAINT), *mix_spans(self.answer.mix))
        yield Static(head, markup=False, classes="column-head")
        yield self.answer

    def on_click(self, event: events.Click) -> None:
        if event.widget is not None and event.widget.has_class("column-head"):
            event.stop()
            self.post_message(Panel.Wanted(f"/keep {self.answer.mix}"))
            self.post_message(Panel.Left())
