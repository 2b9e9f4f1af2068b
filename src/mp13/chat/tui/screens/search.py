"""Search in all conversations while one types. What is found, and how, is the store's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual import on
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.timer import Timer
from textual.widgets import Input, OptionList, Static
from textual.widgets.option_list import Option

from mp13.chat.text import printable
from mp13.chat.tui.keymap import bind, hints
from mp13.chat.tui.widgets.conversation_rows import found_row
from mp13.errors import Mp13Error

if TYPE_CHECKING:
    from mp13.chat.conversation.store import ConversationStore
    from mp13.chat.conversation.store_search import Found

LIMIT = 100  # turns that are listed
_AFTER_S = 0.12  # without a key


class SearchScreen(ModalScreen["Found | None"]):
    """Gives the turn that was chosen. `present` is the conversation that is on the screen."""

    BINDINGS = [
        bind("dialog.keep", "keep", "Open", priority=True),
        bind("dialog.close", "dismiss(None)", "Close"),
        bind("dialog.up", "move(-1)", priority=True),
        bind("dialog.down", "move(1)", priority=True),
    ]

    def __init__(self, store: ConversationStore, present: str) -> None:
        super().__init__()
        self._store = store
        self._present = present
        self._found: list[Found] = []
        self._pause: Timer | None = None

    def compose(self) -> ComposeResult:
        with Vertical(id="search", classes="dialog") as dialog:
            dialog.border_title = "Search all conversations"
            dialog.border_subtitle = hints(self, keep="open", close="close")
            field = Input(placeholder="words, or how they begin", compact=True)
            field.cursor_blink = False
            yield field
            yield OptionList(markup=False, compact=True)
            yield Static(markup=False, classes="note")

    def on_mount(self) -> None:
        self.query_one(OptionList).can_focus = False
        self._look()

    @on(Input.Changed)
    def _typed(self) -> None:
        if self._pause is not None:
            self._pause.stop()
        self._pause = self.set_timer(_AFTER_S, self._look)

    def _look(self) -> None:
        """Draw what is found now."""
        if self._pause is not None:
            self._pause.stop()
            self._pause = None
        text = self.query_one(Input).value.strip()
        try:
            self._found = self._store.search(text, LIMIT)
            note = "Nothing found." if text and not self._found else ""
        except Mp13Error as error:
            self._found, note = [], printable(str(error))
        options = self.query_one(OptionList)
        width = max(options.scrollable_content_region.width, 12)
        rows = [found_row(found, found.conversation_id == self._present, width) for found in self._found]
        options.set_options(Option(row) for row in rows)
        options.highlighted = 0 if self._found else None
        self.query_one(".note", Static).update(Content(note))

    def action_move(self, step: int) -> None:
        options = self.query_one(OptionList)
        options.action_cursor_up() if step < 0 else options.action_cursor_down()

    def action_keep(self) -> None:
        if self._pause is not None:  # a fast typist means what is in the field
            self._look()
        index = self.query_one(OptionList).highlighted
        if index is not None:
            self.dismiss(self._found[index])

    @on(OptionList.OptionSelected)
    def _clicked(self, event: OptionList.OptionSelected) -> None:
        self.dismiss(self._found[event.option_index])
