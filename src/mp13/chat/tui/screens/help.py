"""The help screen: keys, slash commands, and the engine as it came up."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Static

from mp13.chat.text import printable

KEYS = (
    ("Enter", "send"),
    ("Shift+Enter, Ctrl+J", "new line"),
    ("Up, Down", "earlier prompts"),
    ("Esc", "stop the answer, or take back a waiting prompt"),
    ("Ctrl+O, F2", "choose or mix adapters"),
    ("PageUp, PageDown", "scroll the conversation"),
    ("Ctrl+N", "new conversation"),
    ("Ctrl+T", "light or dark"),
    ("Ctrl+P", "all commands"),
    ("Ctrl+Q, Ctrl+C twice", "quit"),
)


class HelpScreen(ModalScreen[None]):
    """`commands` and `engine` are pairs of a name and what there is to say about it."""

    BINDINGS = [Binding("escape,f1,q,enter", "dismiss", "Close")]

    def __init__(self, commands: list[tuple[str, str]], engine: list[tuple[str, str]]) -> None:
        super().__init__()
        self._sections = [("Keys", list(KEYS)), ("Commands", commands), ("Engine", engine)]

    def compose(self) -> ComposeResult:
        with VerticalScroll(id="help", classes="dialog") as dialog:
            dialog.border_title = "Help"
            dialog.border_subtitle = "esc close"
            for title, rows in self._sections:
                if rows:
                    yield Static(title, classes="heading")
                    yield Static(_table(rows), classes="table")


def _table(rows: list[tuple[str, str]]) -> Table:
    table = Table.grid(padding=(0, 2))
    for name, text in rows:
        table.add_row(Text(printable(name), "bold"), Text(printable(text)))
    return table
