"""Markdown as a model writes it. Imported only once an answer is drawn: its parser would delay the first frame.

Unlike Textual's own, it shows `<tags>` as the text they are, keeps the model's line breaks, and opens a link only
where it leads to the web.
"""

from markdown_it import MarkdownIt
from markdown_it.rules_core import StateCore
from textual.widget import Widget
from textual.widgets import Markdown

from mp13.chat.text import printable
from mp13.chat.tui.widgets.code_block import CodeBlock
from mp13.chat.tui.widgets.folding_table import FoldingTable


class AnswerMarkdown(Markdown):
    DEFAULT_CSS = """
    AnswerMarkdown { background: transparent; padding: 0; margin: 0; }
    AnswerMarkdown MarkdownFence { overflow: hidden; }
    AnswerMarkdown MarkdownFence > Label { width: 100%; }
    AnswerMarkdown .copy { position: absolute; width: 100%; height: 1; padding: 0 1; text-align: right;
      background: transparent; color: $foreground 60%; }
    AnswerMarkdown .copy:hover { color: $accent; }
    AnswerMarkdown MarkdownTableContent > .cell, AnswerMarkdown MarkdownTableContent > .header { text-overflow: fold; }
    AnswerMarkdown .folded { height: auto; padding: 0 0 0 2; border-left: vkey $foreground 20%; }
    AnswerMarkdown MarkdownHeader { margin: 0 0 1 0; content-align: left middle; }
    """
    BLOCKS = {**Markdown.BLOCKS, "table_open": FoldingTable, "fence": CodeBlock, "code_block": CodeBlock}

    def __init__(self, text: str = "") -> None:
        super().__init__(text, parser_factory=_parser, open_links=False)
        self._last: Widget | None = None

    def close_gap(self) -> None:
        """Take away the blank line under the last block. (A `:last-child` rule would restyle every block each time.)"""
        last = self.children[-1] if self.children else None
        if last is self._last:
            return
        if self._last is not None:
            self._last.styles.inline.clear_rule("margin")
        if last is not None:
            top, right, _, left = last.styles.margin
            last.styles.margin = (top, right, 0, left)
        self._last = last

    def on_markdown_link_clicked(self, event: Markdown.LinkClicked) -> None:
        event.stop()
        if event.href.startswith(("https://", "http://")):
            self.app.open_url(event.href)
        else:
            self.notify("Only links to the web are opened.", severity="warning")


def _parser() -> MarkdownIt:
    parser = MarkdownIt("gfm-like").disable(["html_block", "html_inline"])
    parser.core.ruler.push("keep_line_breaks", _keep_line_breaks)
    parser.core.ruler.push("only_printable", _only_printable)
    return parser


def _keep_line_breaks(state: StateCore) -> None:
    for token in state.tokens:
        for child in token.children or ():
            if child.type == "softbreak":
                child.type = "hardbreak"


def _only_printable(state: StateCore) -> None:
    """Entities such as `&#x202e;` have become characters by now."""
    for token in state.tokens:
        for part in (token, *(token.children or ())):
            part.content = printable(part.content)
