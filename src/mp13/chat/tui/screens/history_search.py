"""Search through earlier prompts, of this chat and of those before. What is chosen goes into the prompt."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.content import Content
from textual.widgets.option_list import Option

from mp13.chat.text import one_line
from mp13.chat.tui.screens.choosing import Choosing

if TYPE_CHECKING:
    from mp13.chat.conversation.prompt_history import PromptHistory

_MOST = 200  # rows
_WIDEST = 200  # characters of one


class HistorySearch(Choosing[str | None]):
    """Gives the chosen prompt, or None."""

    ID = "earlier"
    QUESTION = "What did you ask before?"
    PLACEHOLDER = "words of the prompt"

    def __init__(self, history: PromptHistory) -> None:
        super().__init__()
        self._history = history
        self._shown: list[str] = []

    def look(self, text: str) -> None:
        self._shown = self._history.find(text)[:_MOST]
        self.options.set_options(Option(Content(one_line(one[: 4 * _WIDEST])[:_WIDEST])) for one in self._shown)
        self.options.action_first()
        nothing = "No earlier prompt has these words." if text else "Nothing has been asked yet."
        self.tell("" if self._shown else nothing)

    def take(self, row: int) -> None:
        self.dismiss(self._shown[row])
