"""The help screen: keys, slash commands, and the engine as it came up."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text
from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.widgets import Static

from mp13.chat.text import printable
from mp13.chat.tui.keymap import bind, given_keys, help_sections, hints
from mp13.chat.tui.screens.dialog import Dialog

_NAMES = 24  # cells of the column of keys and commands


class HelpScreen(Dialog[None]):
    """`commands` and `engine` are pairs of a name and what there is to say about it."""

    BINDINGS = [bind("dialog.close", "dismiss", "Close"), bind("chat.help", "dismiss")]

    def __init__(self, commands: list[tuple[str, str]], engine: list[tuple[str, str]]) -> None:
        super().__init__()
        self._known = [("Commands", commands), ("Engine", engine)]

    def compose(self) -> ComposeResult:
        with VerticalScroll(id="help", classes="dialog") as dialog:
            dialog.border_title = "Help"
            dialog.border_subtitle = hints(self, close="close")
            sections = [*help_sections(given_keys(self)), *self._known]
            width = min(max(len(name) for _, rows in sections for name, _ in rows), _NAMES)
            for title, rows in sections:
                if rows:
                    yield Static(title, classes="heading")
                    yield Static(_table(rows, width), classes="table")


def _table(rows: list[tuple[str, str]], width: int) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(width=width)
    for name, text in rows:
        table.add_row(Text(printable(name), "bold"), Text(printable(text)))
    return table
