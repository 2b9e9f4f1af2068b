"""Search in all conversations while one types. What is found, and how, is the store's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.timer import Timer
from textual.widgets.option_list import Option

from mp13.chat.tui.screens.choosing import Choosing
from mp13.chat.tui.widgets.conversation_rows import found_row
from mp13.errors import Mp13Error

if TYPE_CHECKING:
    from mp13.chat.conversation.store import ConversationStore
    from mp13.chat.conversation.store_search import Found

LIMIT = 100  # turns that are listed
_AFTER_S = 0.12  # without a key


class SearchScreen(Choosing["Found | None"]):
    """Gives the turn that was chosen. `present` is the conversation that is on the screen."""

    ID = "search"
    QUESTION = "Search all conversations"
    PLACEHOLDER = "words, or how they begin"
    WORDS = {"keep": "open", "close": "close"}

    def __init__(self, store: ConversationStore, present: str) -> None:
        super().__init__()
        self._store = store
        self._present = present
        self._found: list[Found] = []
        self._pause: Timer | None = None

    def on_mount(self) -> None:
        super().on_mount()
        self._search()

    def look(self, text: str) -> None:
        """Once no more is typed for a moment."""
        if self._pause is not None:
            self._pause.stop()
        self._pause = self.set_timer(_AFTER_S, self._search)

    def _search(self) -> None:
        if self._pause is not None:
            self._pause.stop()
            self._pause = None
        try:
            self._found = self._store.search(self.typed, LIMIT, present=self._present)
            self.tell("Nothing found." if self.typed and not self._found else "")
        except Mp13Error as error:
            self._found = []
            self.tell(str(error))
        width = max(self.options.scrollable_content_region.width, 12)
        rows = [found_row(found, found.conversation_id == self._present, width) for found in self._found]
        self.options.set_options(Option(row) for row in rows)
        self.options.highlighted = 0 if self._found else None

    def take(self, row: int) -> None:
        self.dismiss(self._found[row])

    def enter(self) -> None:
        if self._pause is not None:  # a fast typist means what is in the field
            self._search()
        super().enter()
