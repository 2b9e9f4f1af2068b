"""A Markdown table that folds: where its columns would be too narrow for their words, each row becomes a few lines."""

from __future__ import annotations

from rich.cells import cell_len
from textual import events
from textual.app import ComposeResult
from textual.content import Content
from textual.widgets._markdown import (  # private, but what Markdown.BLOCKS is made of
    MarkdownBlock,
    MarkdownTable,
    MarkdownTableCellContents,
    MarkdownTableContent,
)

_BESIDE = 3  # cells of a column that are not its text: a line and a blank at either side


class _Cells(MarkdownTableContent):
    def compose(self) -> ComposeResult:
        """A cell's tooltip is its text; Textual would read it as markup."""
        for cell in super().compose():
            if isinstance(cell.tooltip, str):
                cell.tooltip = Content(cell.tooltip)
            yield cell


class FoldingTable(MarkdownTable):
    def compose(self) -> ComposeResult:
        self._headers, self._rows = self._get_headers_and_rows()
        yield _Cells(self._headers, self._rows)
        self._lines = MarkdownTableCellContents(classes="folded")
        self._lines.display = False
        yield self._lines

    def on_resize(self, event: events.Resize) -> None:
        self._fit(event.size.width)

    async def _update_from_block(self, block: MarkdownBlock) -> None:
        """More of the table has come."""
        await super()._update_from_block(block)
        if self.is_attached:
            self._fit(self.size.width)

    def _fit(self, width: int) -> None:
        is_folded = self._least_width > width
        if is_folded:
            self._lines.update(self._folded())
        if self._lines.display != is_folded:
            self._lines.display = is_folded
            self.query_one(MarkdownTableContent).display = not is_folded

    @property
    def _least_width(self) -> int:
        """Cells in which no word has to be broken."""
        columns = zip(*([cell.plain for cell in row] for row in (self._headers, *self._rows)), strict=False)
        longest = (max(cell_len(word) for cell in column for word in cell.split() or [""]) for column in columns)
        return sum(cells + _BESIDE for cells in longest) + 1

    def _folded(self) -> Content:
        """A line for each cell, with the name of its column; a blank line between rows."""
        rows = [
            Content("\n").join(
                Content.assemble(header.stylize("$primary"), ": ", cell)
                for header, cell in zip(self._headers, row, strict=False)
            )
            for row in self._rows
        ]
        return Content("\n\n").join(rows or self._headers)
