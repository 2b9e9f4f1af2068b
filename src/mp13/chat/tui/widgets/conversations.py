"""The conversations on disk: search them, open one, give it another title, archive or delete it, and undo that.

What is stored, and how it is found, is the store's; opening one is the slash command `/resume`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from textual import on
from textual.content import Content
from textual.timer import Timer
from textual.widget import Widget
from textual.widgets import Input, OptionList, Static

from mp13.chat.text import one_line, printable
from mp13.chat.tui.keymap import key_label
from mp13.chat.tui.widgets.conversation_rows import found_row, new_row, quoted, stored_row
from mp13.chat.tui.widgets.fields import SearchField, TitleField
from mp13.chat.tui.widgets.panel import Panel
from mp13.chat.tui.widgets.rows import MUTED, Rows
from mp13.errors import Mp13Error

if TYPE_CHECKING:
    from mp13.chat.conversation.session import ChatSession
    from mp13.chat.conversation.store import ConversationStore
    from mp13.chat.conversation.store_search import Found

LIMIT = 200  # rows; a search finds what is older
UNDO_S = 15.0  # how long a deleted conversation can be brought back
_SEARCH_AFTER_S = 0.12  # without a key
_NEW, _ARCHIVE = "new", "archive"  # ids of rows that are no conversation's


@dataclass(frozen=True)
class _Listed:
    """A conversation that has a row."""

    id: str
    title: str
    is_archived: bool
    is_present: bool


class ConversationsPanel(Panel):
    TITLE, KEY = "Conversations", "conversations.panel"

    def __init__(self) -> None:
        super().__init__("conversations")
        self._listed: dict[str, _Listed] = {}
        self._in_archive = False
        self._deleted: _Listed | None = None
        self._pause: Timer | None = None

    def contents(self) -> Iterator[Widget]:
        self._search = SearchField("type to search")
        self._rows = Rows()
        self._rows.can_focus = False
        self._title_field = TitleField()
        self._note = Static(markup=False, classes="note")
        yield from (self._search, self._note, self._rows, self._title_field)

    @property
    def _store(self) -> ConversationStore | None:
        return None if self.session is None else self.session.store

    @property
    def can_undo(self) -> bool:
        return self._deleted is not None

    def open(self, session: ChatSession) -> None:
        super().open(session)
        self.draw()

    def draw(self) -> None:
        """What is stored now, if anybody can see it."""
        if not (self._is_filled and self.display):
            return
        if self._store is None:
            self._tell(_no_store_note(self.session))
            return
        with self._explained():
            text = self._search.value.strip()
            self._show(self._found(text) if text else self._stored())

    def _show(self, rows: list[tuple[str, Content]]) -> None:
        self._rows.show(rows)
        self._tell("" if self._listed else "Nothing found." if self._search.value.strip() else "Nothing here yet.")

    def _tell(self, note: str) -> None:
        self._note.update(Content(note))
        self._note.display = bool(note)

    def _stored(self) -> list[tuple[str, Content]]:
        assert self._store is not None
        infos = self._store.conversations(LIMIT, archived=self._in_archive)
        present = self._present
        self._listed = {info.id: _Listed(info.id, info.title, info.archived, info.id == present) for info in infos}
        back = "‹ Back to the conversations" if self._in_archive else "Archive ›"
        around = (_ARCHIVE, Content.styled(back, MUTED))
        rows = [(info.id, stored_row(info, info.id == present, self._width)) for info in infos]
        if self._in_archive:
            return [around, *rows]
        key = key_label(self, "conversations.new")
        return [(_NEW, new_row(present not in self._listed, key, self._width)), *rows, around]

    def _found(self, text: str) -> list[tuple[str, Content]]:
        """What holds `text`, a conversation once."""
        assert self._store is not None
        best: dict[str, Found] = {}
        for found in self._store.search(text, LIMIT, copies=True):
            best.setdefault(found.conversation_id, found)
        present = self._present
        self._listed = {id: _Listed(id, found.title, self._in_archive, id == present) for id, found in best.items()}
        return [(id, found_row(found, id == present, self._width)) for id, found in best.items()]

    @property
    def _present(self) -> str:
        return "" if self.session is None else self.session.conversation_id

    @property
    def _width(self) -> int:
        return max(self._rows.scrollable_content_region.width, 12)

    @on(Input.Changed)
    def _typed(self, event: Input.Changed) -> None:
        event.stop()
        if event.input is self._search:
            if self._pause is not None:
                self._pause.stop()
            self._pause = self.set_timer(_SEARCH_AFTER_S, self._search_now)

    def _search_now(self) -> None:
        if self._pause is not None:
            self._pause.stop()
            self._pause = None
            self.draw()

    @on(SearchField.Pressed)
    async def _pressed(self, event: SearchField.Pressed) -> None:
        event.stop()
        self._search_now()
        match event.what:
            case "open":
                self._open(self._rows.marked)
            case "rename":
                self._begin_renaming()
            case "archive":
                self._archive()
            case "delete":
                self._delete()
            case "up":
                self._rows.action_cursor_up()
            case "down":
                self._rows.action_cursor_down()
            case "leave":
                self._search.value = ""
                self.action_leave()

    @on(OptionList.OptionSelected)
    def _clicked(self, event: OptionList.OptionSelected) -> None:
        event.stop()
        self._open(event.option_id)

    def _open(self, id: str | None) -> None:
        if id == _ARCHIVE:
            self._in_archive = not self._in_archive
            self.entitle("Archive" if self._in_archive else "")
            self.draw()
            self._rows.mark(None)
        elif id is not None:
            if id != self._present:
                self.post_message(self.Wanted("/new" if id == _NEW else f"/resume {id}"))
            self._search.value = ""
            self.action_leave()

    @property
    def _marked(self) -> _Listed | None:
        return self._listed.get(self._rows.marked or "")

    def _begin_renaming(self) -> None:
        if (info := self._marked) is None:
            return
        field = self._title_field
        field.styles.offset = (0, self._rows.region.y - self.content_region.y + self._rows.line_of(info.id))
        field.value = one_line(info.title)
        field.display = True
        field.focus()

    @on(Input.Submitted)
    def _renamed(self, event: Input.Submitted) -> None:
        event.stop()
        if event.input is self._title_field and (info := self._marked) is not None:
            if (title := self._title_field.value.strip()) and self._store is not None:
                with self._explained():
                    self._store.rename(info.id, title)
            self._end_renaming()

    @on(TitleField.GivenUp)
    def _end_renaming(self) -> None:
        self._title_field.display = False
        self._search.focus()
        self.draw()

    @on(Input.Blurred)
    def _went_elsewhere(self, event: Input.Blurred) -> None:
        """The field goes with its focus, unless it is the terminal that has lost it."""
        if event.input is self._title_field and self.app.app_focus:
            self._title_field.display = False

    def _archive(self) -> None:
        if (one := self._marked) is not None and self._store is not None:
            with self._explained():
                self._store.archive(one.id, not one.is_archived)
                where = "back among the conversations" if one.is_archived else "in the archive"
                self.notify(f"{quoted(one.title)} is {where}.", markup=False)
            self.draw()

    def _delete(self) -> None:
        if (one := self._marked) is None or self._store is None:
            return
        with self._explained():
            self._store.delete(one.id)
            self._deleted = one
            key = key_label(self, "chat.undo")
            self.notify(f"{quoted(one.title)} is deleted. {key} brings it back.", timeout=UNDO_S, markup=False)
            self.set_timer(UNDO_S, lambda: self._forget(one))
            if one.is_present:
                self.post_message(self.Wanted("/new"))
        self.draw()
        self.screen.refresh_bindings()

    def undo(self) -> None:
        """Bring back what was deleted last."""
        if (one := self._deleted) is not None and self._store is not None:
            with self._explained():
                self._store.restore(one.id)
                self.app.clear_notifications()  # one of them says that it is deleted
                self.notify(f"{quoted(one.title)} is back.", markup=False)
                if one.is_present:
                    self.post_message(self.Wanted(f"/resume {one.id}"))
            self._forget(one)
            self.draw()

    def _forget(self, deleted: _Listed) -> None:
        if self._deleted is deleted:
            self._deleted = None
            self.screen.refresh_bindings()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """What the store cannot do is said, and the panel stays as it is."""
        try:
            yield
        except Mp13Error as error:
            self.notify(printable(str(error)), severity="error", markup=False)


def _no_store_note(session: ChatSession | None) -> str:
    if session is None:
        return "One moment: the chat is still starting."
    if session.not_kept:  # which the transcript explains
        return "Nothing is saved in this chat."
    return "Nothing is kept in this chat: it began with --no-log."
