"""The prompt: a small editor in which Enter sends, Shift+Enter or Ctrl+J breaks the line, and Up recalls.

It knows nothing of the conversation; it says what was sent and lets `Completion` finish slash commands.
"""

from textual.message import Message
from textual.widgets import TextArea

from mp13.chat.tui.keymap import ActsInOrder, bind
from mp13.chat.tui.widgets.completion import Completion

PLACEHOLDER = "Ask anything · / for commands"


class Prompt(ActsInOrder, TextArea):
    BINDINGS = [
        bind("prompt.send", "send"),
        bind("prompt.newline", "break_line"),
        bind("prompt.complete", "complete"),
        bind("prompt.earlier", "cursor_up"),
        bind("prompt.later", "cursor_down"),
        bind("prompt.page_up", "turn_page(-1)"),
        bind("prompt.page_down", "turn_page(1)"),
        bind("prompt.copy", "copy_or_quit"),
    ]

    class Sent(Message):
        """The reader pressed Enter on `text`, which is not blank."""

        def __init__(self, text: str) -> None:
            super().__init__()
            self.text = text

    class PageTurned(Message):
        """The reader wants to see what is a page up (-1) or down (1) in the conversation."""

        def __init__(self, pages: int) -> None:
            super().__init__()
            self.pages = pages

    def __init__(self, completion: Completion) -> None:
        super().__init__(placeholder=PLACEHOLDER, soft_wrap=True, tab_behavior="focus", highlight_cursor_line=False)
        self.cursor_blink = False
        self._completion = completion
        self._sent: list[str] = []
        self._recalled: int | None = None  # index into _sent of what is being shown

    def on_text_area_changed(self) -> None:
        self._completion.follow(self.text)

    def action_break_line(self) -> None:
        self.insert("\n", maintain_selection_offset=False)

    def action_turn_page(self, pages: int) -> None:
        self.post_message(self.PageTurned(pages))

    def action_complete(self) -> None:
        """Complete what can be; else the focus goes on."""
        if not self.complete():
            self.screen.focus_next()

    def action_send(self) -> None:
        self._completion.follow(self.text)
        if self._completion.has_choice:
            self.complete()
            return
        text = self.text.strip("\n").rstrip()
        if not text:
            return
        self._sent.append(text)
        self._recalled = None
        self.text = ""  # what was sent is not to be undone here
        self.post_message(self.Sent(text))

    def offer(self, text: str) -> None:
        """Put `text` in the empty prompt; what the reader is already writing is left alone."""
        if not self.text.strip():
            self.show(text)

    def show(self, text: str) -> None:
        """Replace what is in the prompt, with the cursor at the end."""
        self.text = text
        self.move_cursor(self.document.end)

    def complete(self) -> bool:
        """Take the marked suggestion, or the first; whether there was one."""
        self._completion.follow(self.text)
        if (value := self._completion.take()) is not None:
            self.show(value)
        return value is not None

    def action_cursor_up(self, select: bool = False) -> None:
        if self._completion.is_open and not select:
            self._completion.action_cursor_up()
        elif select or not self._recall(-1):
            super().action_cursor_up(select)

    def action_cursor_down(self, select: bool = False) -> None:
        if self._completion.is_open and not select:
            self._completion.action_cursor_down()
        elif select or not self._recall(+1):
            super().action_cursor_down(select)

    def _recall(self, step: int) -> bool:
        """Show the prompt `step` away in what was sent, when the reader is at that edge of an untouched text."""
        shown = "" if self._recalled is None else self._sent[self._recalled]
        at_edge = self.cursor_at_first_line if step < 0 else self.cursor_at_last_line
        if self.text != shown or not at_edge or (step > 0 and self._recalled is None) or not self._sent:
            return False
        index = (len(self._sent) if self._recalled is None else self._recalled) + step
        self._recalled = max(index, 0) if index < len(self._sent) else None
        self.show("" if self._recalled is None else self._sent[self._recalled])
        return True

    def action_copy_or_quit(self) -> None:
        if self.selected_text:
            self.action_copy()
        elif self.screen.get_selected_text():
            self.screen.action_copy_text()
        else:
            self.app.action_help_quit()
