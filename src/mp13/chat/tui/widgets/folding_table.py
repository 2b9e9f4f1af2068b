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

_PADDING = 2  # a blank at either side of a text
_BESIDE = _PADDING + 1  # cells of a column that are not its text: the blanks and a line


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
        natural, least = self._cells_of_columns()
        room = width - _BESIDE * len(least) - 1
        is_folded = sum(least) > room
        if is_folded:
            self._lines.update(self._folded())
        if self._lines.display != is_folded:
            self._lines.display = is_folded
            self.query_one(MarkdownTableContent).display = not is_folded
        if not is_folded:
            styles = self.query_one(MarkdownTableContent).styles
            if sum(natural) > room:
                styles.grid_columns = [str(cells + _PADDING) for cells in _shares(natural, least, room)]
            else:
                styles.clear_rule("grid_columns")

    def _cells_of_columns(self) -> tuple[list[int], list[int]]:
        """Of each column, the cells in which every text is one line, and those in which no word has to be broken."""
        columns = list(zip(*([cell.plain for cell in row] for row in (self._headers, *self._rows)), strict=False))
        natural = [max(map(cell_len, column)) for column in columns]
        least = [max(cell_len(word) for cell in column for word in cell.split() or [""]) for column in columns]
        return natural, least

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


def _shares(natural: list[int], least: list[int], room: int) -> list[int]:
    """`room` shared out evenly: no column gets more than is `natural` to it, nor less than its `least`."""
    for level in range(room, 0, -1):
        shares = [max(low, min(high, level)) for low, high in zip(least, natural, strict=True)]
        if sum(shares) <= room:
            return shares
    return least
