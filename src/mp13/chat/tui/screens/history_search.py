"""Search through earlier prompts, of this chat and of those before. What is chosen goes into the prompt."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual import on
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Input, OptionList, Static
from textual.widgets.option_list import Option

from mp13.chat.text import one_line
from mp13.chat.tui.keymap import bind, hints
from mp13.chat.tui.widgets.fields import ChoiceField

if TYPE_CHECKING:
    from mp13.chat.conversation.prompt_history import PromptHistory

_MOST = 200  # rows
_WIDEST = 200  # characters of one


class HistorySearch(ModalScreen[str | None]):
    """Gives the chosen prompt, or None."""

    BINDINGS = [
        bind("dialog.close", "dismiss(None)", "Close"),
        bind("dialog.up", "move(-1)", priority=True),
        bind("dialog.down", "move(1)", priority=True),
    ]

    def __init__(self, history: PromptHistory) -> None:
        super().__init__()
        self._history = history
        self._shown: list[str] = []

    def compose(self) -> ComposeResult:
        with Vertical(id="earlier", classes="dialog") as dialog:
            dialog.border_title = "What did you ask before?"
            dialog.border_subtitle = hints(self, keep="choose", close="close")
            yield ChoiceField("words of the prompt")
            yield OptionList(markup=False, compact=True)
            yield Static(markup=False, classes="problem")

    def on_mount(self) -> None:
        self.query_one(OptionList).can_focus = False
        self._search("")

    @on(Input.Changed)
    def _typed(self, event: Input.Changed) -> None:
        self._search(event.value)

    def _search(self, words: str) -> None:
        self._shown = self._history.find(words)[:_MOST]
        options, problem = self.query_one(OptionList), self.query_one(".problem", Static)
        options.clear_options()
        options.add_options(Option(Content(one_line(text[: 4 * _WIDEST])[:_WIDEST])) for text in self._shown)
        options.action_first()
        nothing = "No earlier prompt has these words." if words.strip() else "Nothing has been asked yet."
        problem.update(Content("" if self._shown else nothing))
        problem.display = not self._shown

    def action_move(self, step: int) -> None:
        options = self.query_one(OptionList)
        options.action_cursor_up() if step < 0 else options.action_cursor_down()

    @on(OptionList.OptionSelected)
    def _clicked(self, event: OptionList.OptionSelected) -> None:
        self.dismiss(self._shown[event.option_index])

    @on(Input.Submitted)
    def _keep(self) -> None:
        index = self.query_one(OptionList).highlighted
        if index is not None:
            self.dismiss(self._shown[index])
