"""What every step of the wizard is: a part of the screen that asks for something and takes it into the draft."""

from __future__ import annotations

from contextlib import suppress
from typing import ClassVar

from rich.table import Table
from rich.text import Text
from textual.containers import Vertical
from textual.content import Content
from textual.events import Click
from textual.message import Message
from textual.widgets import OptionList, Static
from textual.worker import WorkerCancelled, WorkerFailed

from mp13.chat.text import printable
from mp13.chat.wizard.state import State

_FRAMES = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"


class Step(Vertical):
    """Subclasses yield their widgets in `compose`."""

    NAME: ClassVar[str]  # in the trail
    HEADING: ClassVar[str]
    HINT: ClassVar[str]
    NEXT: ClassVar[str] = "Next"
    FOCUS: ClassVar[str] = "*"  # has it at first, if it can

    class Done(Message):
        """The reader has chosen and wants to go on."""

    def __init__(self, state: State) -> None:
        super().__init__()
        self.state = state

    def surveyed(self) -> None:
        """The machine's survey is there now."""

    async def accept(self) -> None:
        """Take what is chosen into the draft. Raises Mp13Error when it cannot be used."""

    async def close(self) -> None:
        """The reader goes elsewhere: what this step began is ended."""
        for worker in self.workers.cancel_node(self):
            with suppress(WorkerCancelled, WorkerFailed):
                await worker.wait()


class Choices(OptionList):
    """Enter, or a click on what is marked already, chooses; a first click only marks."""

    def __init__(self, id: str) -> None:
        super().__init__(id=id, markup=False, compact=True)

    async def _on_click(self, event: Click) -> None:
        event.prevent_default()
        index = event.style.meta.get("option")
        if index is None or self.get_option_at_index(index).disabled:
            return
        if index == self.highlighted:
            self.action_select()
        self.highlighted = index


def choice(name: str, detail: str, width: int) -> Table:
    """A row of `Choices`: names of up to `width` characters, and what there is to say, wrapped beside them."""
    row = Table.grid(padding=(0, 2), expand=True)
    row.add_column(width=width)
    row.add_column(ratio=1)
    row.add_row(Text(printable(name), "bold"), Text(printable(detail), "dim"))
    return row


class Busy(Static):
    """A line that says what is waited for, with something that moves. Hidden while its text is empty."""

    def __init__(self, text: str = "", id: str | None = None) -> None:
        super().__init__(id=id, markup=False, classes="busy")
        self._text = text
        self._frame = 0
        self.display = bool(text)

    def on_mount(self) -> None:
        self.set_interval(0.1, self._turn)
        self._turn()

    def show(self, text: str) -> None:
        self._text = text
        self.display = bool(text)
        self._turn()

    def _turn(self) -> None:
        if self._text:
            self._frame = (self._frame + 1) % len(_FRAMES)
            self.update(Content.assemble((_FRAMES[self._frame], "$accent"), f" {printable(self._text)}"))
