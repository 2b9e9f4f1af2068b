"""The prompt: a small editor in which Enter sends, Shift+Enter or Ctrl+J breaks the line, and Up recalls.

It knows nothing of the conversation; it says what was sent, pastes and files included, and lets `Completion` finish
slash commands and names of files. What was sent before is conversation/prompt_history.py's.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from textual import events
from textual.message import Message
from textual.widgets import TextArea

from mp13.chat.text import printable
from mp13.chat.tui.keymap import ActsInOrder, bind
from mp13.chat.tui.pastes import Pastes
from mp13.chat.tui.widgets.completion import Completion, Suggestion
from mp13.chat.tui.widgets.prompt_cost import PromptCost
from mp13.errors import ConfigError

if TYPE_CHECKING:
    from mp13.chat.conversation.prompt_history import PromptHistory
    from mp13.chat.conversation.session import ChatSession

PLACEHOLDER = "Ask anything · / for commands"


class Prompt(ActsInOrder, TextArea):
    BINDINGS = [
        bind("prompt.send", "send"),
        bind("prompt.newline", "break_line"),
        bind("prompt.complete", "complete"),
        bind("prompt.earlier", "cursor_up"),
        bind("prompt.later", "cursor_down"),
        bind("prompt.search", "search"),
        bind("prompt.editor", "edit_outside"),
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
        self._pastes = Pastes()
        self._cost = PromptCost(self)
        self._history: PromptHistory | None = None
        self._sent: list[str] = []  # as it was written: with tokens for pastes
        self._recalled: int | None = None  # index into _sent of what is being shown
        self._written: dict[str, str] = {}  # what was sent, where it is not what was written, and that

    def open(self, session: ChatSession) -> None:
        """The core is there: earlier chats' prompts can be recalled, and tokens be counted."""
        from mp13.chat.conversation.prompt_history import PromptHistory, history_file

        self._history = PromptHistory(history_file() if session.store is not None else None)
        earlier = list(self._history.entries)
        for text in self._sent:
            self._history.add(self._pastes.expand(text))
        self._recalled = None if self._recalled is None else self._recalled + len(earlier)
        self._sent = [*earlier, *self._sent]
        self._cost.open(session.count)

    def on_text_area_changed(self) -> None:
        self._follow()
        self._cost.follow(self.text, self._whole)

    def action_break_line(self) -> None:
        self.insert("\n", maintain_selection_offset=False)

    def action_turn_page(self, pages: int) -> None:
        self.post_message(self.PageTurned(pages))

    def action_complete(self) -> None:
        """Complete what can be, or open a paste; else the focus goes on."""
        if not self.complete() and not self._open_paste():
            self.screen.focus_next()

    def action_send(self) -> None:
        self._follow()
        if self._completion.has_choice:
            self.complete()
            return
        text = self.text.strip("\n").rstrip()
        if not text:
            return
        try:
            whole = self._whole(text)
        except ConfigError as error:
            self._complain(error)
            return
        self._keep(text, whole)
        self.text = ""  # what was sent is not to be undone here
        self.post_message(self.Sent(whole))

    def _keep(self, text: str, whole: str) -> None:
        self._sent.append(text)
        self._recalled = None
        if self._history is not None:
            self._history.add(self._pastes.expand(text))
        if whole != text:
            self._written[whole] = text

    def _whole(self, text: str) -> str:
        """`text` with the files that it mentions, and with its pastes. Raises ConfigError for a file that cannot be."""
        if not text.startswith("/") or text.startswith("//"):
            from mp13.chat.conversation.attachments import attach

            text = attach(text, Path.cwd())
        return self._pastes.expand(text)

    def _complain(self, error: ConfigError) -> None:
        self.notify(printable(str(error)), severity="error", markup=False, timeout=10)

    def offer(self, text: str) -> None:
        """Put `text` in the empty prompt as it was written; what the reader is already writing is left alone."""
        if not self.text.strip():
            self.show(self._written.get(text, text))

    def show(self, text: str) -> None:
        """Replace what is in the prompt, with the cursor at the end."""
        self.text = text
        self.move_cursor(self.document.end)

    def _put(self, text: str) -> None:
        """As `show`, but so that it can be undone."""
        self.history.checkpoint()
        self.replace(text, self.document.start, self.document.end, maintain_selection_offset=False)
        self.move_cursor(self.document.end)

    async def _on_paste(self, event: events.Paste) -> None:
        event.prevent_default()
        event.stop()
        self.paste(event.text)

    def paste(self, text: str) -> None:
        """Put what was pasted where the cursor is; a long text as a token."""
        folded = self._pastes.fold(text.replace("\r\n", "\n").replace("\r", "\n"))
        self.history.checkpoint()
        self.replace(folded, *self.selection, maintain_selection_offset=False)

    def action_delete_left(self) -> None:
        """Behind the token of a paste, all of it: what would be left is no paste any more."""
        row, column = self.cursor_location
        found = self._pastes.at(self.document.get_line(row), column)
        if found is not None and found[1] == column and not self.selected_text:
            self.history.checkpoint()
            self.delete((row, found[0]), (row, column))
        else:
            super().action_delete_left()

    def _open_paste(self) -> bool:
        """Put the text of the paste at the cursor in place of its token; whether there is one."""
        row, column = self.cursor_location
        found = self._pastes.at(self.document.get_line(row), column)
        if found is not None:
            self.history.checkpoint()
            self.replace(found[2], (row, found[0]), (row, found[1]), maintain_selection_offset=False)
        return found is not None

    def undo(self) -> None:
        self.move_cursor((0, 0))  # Textual fails where the line with the cursor goes away, and sets the cursor itself
        super().undo()

    def redo(self) -> None:
        self.move_cursor((0, 0))
        super().redo()

    def action_search(self) -> None:
        from mp13.chat.tui.screens.history_search import HistorySearch

        if self._history is None:
            self.notify("One moment: the chat is still starting.")
        else:
            self.app.push_screen(HistorySearch(self._history), lambda text: self._put(text) if text else None)

    def action_edit_outside(self) -> None:
        from mp13.chat.tui.external_editor import edit

        before = self._pastes.expand(self.text)
        try:
            after = edit(self.app, before)
        except ConfigError as error:
            self._complain(error)
            return
        if after != before.rstrip("\n"):
            self._put(self._pastes.refold(after))

    def _follow(self) -> None:
        """Let the completion follow what is being written."""
        mentions = self._mentions()
        if mentions:
            self._completion.offer(mentions)
        else:
            self._completion.follow(self.text)

    def _mentions(self) -> list[Suggestion]:
        """How the name of a file that ends at the cursor can go on."""
        before, after = self._halves()
        if "@" not in before or self.text.startswith("/"):
            return []
        from mp13.chat.conversation.attachments import begun_mention, mentions

        if (begun := begun_mention(before)) is None:
            return []
        head = before[: begun[0]]
        found = [Suggestion(f"{head}{mention}{after}", mention) for mention in mentions(begun[1], Path.cwd())]
        return [one for one in found if one.value != self.text]  # what is whole already needs no completing

    def _halves(self) -> tuple[str, str]:
        """The text before and behind the cursor."""
        cursor = self.cursor_location
        return self.get_text_range((0, 0), cursor), self.get_text_range(cursor, self.document.end)

    def complete(self) -> bool:
        """Take the marked suggestion, or the first; whether there was one."""
        self._follow()
        behind = len(self._halves()[1]) if self._mentions() else 0
        if (value := self._completion.take()) is not None:
            self._put(value)
            done = value[: len(value) - behind].split("\n")
            self.move_cursor((len(done) - 1, len(done[-1])))
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
