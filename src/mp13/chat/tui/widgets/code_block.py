"""A block of code in an answer: highlighted by Textual, with its language and a word to click that copies it."""

from textual.app import ComposeResult
from textual.content import Content
from textual.widgets import Static
from textual.widgets.markdown import MarkdownFence

from mp13.chat.text import one_line


class CodeBlock(MarkdownFence):
    def compose(self) -> ComposeResult:
        yield from super().compose()
        yield CopyWord(self)


class CopyWord(Static):
    """Lies over the blank line at the top of its block."""

    def __init__(self, block: CodeBlock) -> None:
        super().__init__(markup=False, classes="copy")
        self._block = block

    def on_mount(self) -> None:
        language = one_line(self._block.lexer)[:20]
        self.update(Content.assemble((f"{language} · " if language else "", "$foreground 35%"), ("copy", "underline")))

    def on_click(self) -> None:
        self.app.copy_to_clipboard(self._block.code)
        self.notify("copied to the clipboard")
