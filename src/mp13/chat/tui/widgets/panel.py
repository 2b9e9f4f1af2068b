"""What the panels beside the conversation have in common: a title, a look that shows the focus, and how to leave.

Where a panel stands, and whether it is there at all, is widgets/regions.py's.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from textual.containers import Vertical
from textual.content import Content
from textual.message import Message
from textual.widget import Widget
from textual.widgets import Static

from mp13.chat.tui.keymap import key_label
from mp13.chat.tui.widgets.rows import FAINT

if TYPE_CHECKING:
    from mp13.chat.conversation.session import ChatSession


class Panel(Vertical):
    """Empty at first: the first frame does not wait for what is in it, which comes when it is seen."""

    TITLE = ""
    KEY = ""  # the id of the key action that leads here

    class Wanted(Message):
        """The slash command `command` is to be run."""

        def __init__(self, command: str) -> None:
            super().__init__()
            self.command = command

    class Left(Message):
        """The reader is done here; the prompt is to have the focus."""

    def __init__(self, id: str) -> None:
        super().__init__(id=id, classes="panel")
        self._session: ChatSession | None = None
        self._is_filled = False

    def contents(self) -> Iterator[Widget]:
        """Make the widgets under the title."""
        yield from ()

    async def fill(self) -> None:
        if not self._is_filled:
            self._head = Static(markup=False, classes="title")
            await self.mount(self._head, *self.contents())
            self._is_filled = True
            self.entitle()
            self.call_after_refresh(self.draw)

    def draw(self) -> None:
        """Draw what there is to show, for the width there is."""

    def on_resize(self) -> None:
        self.draw()

    @property
    def session(self) -> ChatSession | None:
        return self._session

    def open(self, session: ChatSession) -> None:
        """The core is there."""
        self._session = session

    def entitle(self, title: str = "") -> None:
        """Draw the title, or another for now, with the key that leads here."""
        if self._is_filled:
            key = key_label(self, self.KEY)
            self._head.update(Content.assemble(title or self.TITLE, (f"  {key}", FAINT)))

    def take_focus(self) -> None:
        """Give the focus to what takes the keys in here."""
        for widget in self.query("*").results(Widget):
            if widget.focusable:
                widget.focus()
                return

    def action_leave(self) -> None:
        self.post_message(self.Left())
