"""The help screen: keys, slash commands, and the engine as it came up."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text
from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Static

from mp13.chat.text import printable
from mp13.chat.tui.keymap import bind, given_keys, help_sections


class HelpScreen(ModalScreen[None]):
    """`commands` and `engine` are pairs of a name and what there is to say about it."""

    BINDINGS = [bind("dialog.close", "dismiss", "Close"), bind("chat.help", "dismiss")]

    def __init__(self, commands: list[tuple[str, str]], engine: list[tuple[str, str]]) -> None:
        super().__init__()
        self._known = [("Commands", commands), ("Engine", engine)]

    def compose(self) -> ComposeResult:
        with VerticalScroll(id="help", classes="dialog") as dialog:
            dialog.border_title = "Help"
            dialog.border_subtitle = "esc close"
            for title, rows in [*help_sections(given_keys(self)), *self._known]:
                if rows:
                    yield Static(title, classes="heading")
                    yield Static(_table(rows), classes="table")


def _table(rows: list[tuple[str, str]]) -> Table:
    table = Table.grid(padding=(0, 2))
    for name, text in rows:
        table.add_row(Text(printable(name), "bold"), Text(printable(text)))
    return table
