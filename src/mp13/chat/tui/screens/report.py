"""A dialog of names and what there is to say of each, which can be copied as JSON: details of a turn, a replay."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text
from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.widgets import Static

from mp13.chat.text import printable
from mp13.chat.tui.keymap import bind, hints
from mp13.chat.tui.screens.dialog import Dialog

if TYPE_CHECKING:
    from mp13.chat.conversation.report import Report


class ReportScreen(Dialog[None]):
    BINDINGS = [bind("dialog.close", "dismiss", "Close"), bind("dialog.copy", "copy_json", "Copy as JSON")]

    def __init__(self, report: Report) -> None:
        super().__init__()
        self._report = report

    def compose(self) -> ComposeResult:
        with VerticalScroll(id="report", classes="dialog") as dialog:
            dialog.border_title = self._report.title
            dialog.border_subtitle = hints(self, copy="copy as JSON", close="close")
            table = Table.grid(padding=(0, 2))
            table.add_column(width=max((len(name) for name, _ in self._report.rows), default=0))
            table.add_column(overflow="fold")
            for name, text in self._report.rows:
                table.add_row(Text(printable(name), "bold"), Text(printable(text)))
            yield Static(printable(self._report.summary), markup=False, classes="summary")
            yield Static(table)

    def action_copy_json(self) -> None:
        self.app.copy_to_clipboard(json.dumps(self._report.data, indent=2))
        self.notify("Copied as JSON.")
