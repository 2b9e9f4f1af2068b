"""The transcript with a cursor over its turns, and the keys that do something to the turn under it.

It has the focus while the cursor is seen. It says what is wanted of which turn; doing it is screens/turns_frame.py's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual import events
from textual.binding import BindingType
from textual.message import Message
from textual.widget import Widget

from mp13.chat.tui.keymap import bind
from mp13.chat.tui.widgets.transcript import Drawing, Drawn, Transcript

if TYPE_CHECKING:
    from typing import ClassVar

    from mp13.chat.conversation.turn import Turn


class TurnCursor(Transcript):
    BINDINGS: ClassVar[list[BindingType]] = [
        bind("turns.up", "step(-1)"),
        bind("turns.down", "step(1)"),
        bind("turns.edit", "act('edit')", "Edit"),
        bind("turns.again", "act('again')", "Again"),
        bind("turns.previous", "act('previous')", "‹"),
        bind("turns.next", "act('next')", "›"),
        bind("turns.details", "act('details')", "Details"),
        bind("turns.replay", "act('replay')", "Replay"),
        bind("turns.copy", "act('copy')", "Copy"),
        bind("turns.code", "act('code')", "Code"),
        bind("turns.fork", "act('fork')", "Fork"),
        bind("turns.delete", "act('delete')", "Delete"),
        bind("turns.continue", "act('continue')", "Go on"),
        bind("turns.pin", "act('pin')", "Pin"),
        bind("turns.leave", "leave", "Back"),
    ]

    class Wanted(Message):
        """`what` is to be done to `turn`: the second part of the key action's id."""

        def __init__(self, what: str, turn: Turn) -> None:
            super().__init__()
            self.what = what
            self.turn = turn

    class Left(Message):
        """The reader is done here; the prompt is to have the focus."""

    def __init__(self) -> None:
        super().__init__()
        self._marked: Turn | None = None

    @property
    def turn(self) -> Turn | None:
        """What is under the cursor; None while there is none."""
        return self._marked

    @property
    def _turn_rows(self) -> list[Drawn]:
        return [row for row in self.rows if row.turn is not None]

    @property
    def has_turns(self) -> bool:
        return bool(self._turn_rows)

    async def show(self, rows: list[Drawing], at: int | None = None) -> None:
        await super().show(rows, at)
        self._draw()

    def mark(self, turn: Turn | None) -> None:
        """Put the cursor on a turn that is on the screen, with the focus; None takes it away."""
        self._marked = turn
        self.can_focus = turn is not None
        if turn is not None and not self.has_focus:
            self.screen.set_focus(self, scroll_visible=False)
        self._draw()
        self.screen.refresh_bindings()

    async def action_step(self, step: int) -> None:
        """Go to the next turn; from the prompt, to the last one that is seen, and from the last to the prompt."""
        row = self._beside(step)
        if row is None and await (self.page_up() if step < 0 else self.page_down()):
            row = self._beside(step)
        if row is not None:
            self._go_to(row)
        elif step > 0:
            self.action_leave()

    def _beside(self, step: int) -> Drawn | None:
        rows = self._turn_rows
        ids = [row.turn.id for row in rows if row.turn is not None]
        if self._marked is None or self._marked.id not in ids:
            return self._last_seen(rows)
        place = ids.index(self._marked.id) + step
        return rows[place] if 0 <= place < len(rows) else None

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        return self._marked is not None  # what stands in it may have the focus, and keys of its own

    def action_act(self, what: str) -> None:
        if self._marked is not None:
            self.post_message(self.Wanted(what, self._marked))

    def action_leave(self) -> None:
        self.post_message(self.Left())

    def on_click(self, event: events.Click) -> None:
        """A click goes to the turn under it, unless it ended the selection of some text."""
        if event.widget is None or self.screen.get_selected_text():
            return
        around: list[Widget] = [node for node in event.widget.ancestors_with_self if isinstance(node, Widget)]
        for row in self._turn_rows:
            if row in around:
                self.mark(row.turn)

    def on_blur(self) -> None:
        """The cursor goes with its focus, unless it is the terminal that has lost it."""
        if self.app.app_focus and self._marked is not None:
            self.mark(None)

    def _last_seen(self, rows: list[Drawn]) -> Drawn | None:
        seen = [row for row in rows if row.region.overlaps(self.region)]
        return seen[-1] if seen else rows[-1] if rows else None

    def _go_to(self, row: Drawn) -> None:
        self.mark(row.turn)
        self.release_anchor()
        self.call_after_refresh(self._see, row)

    def _see(self, row: Drawn) -> None:
        if row.is_attached:
            self.scroll_to_widget(row, animate=False, top=row.size.height > self.size.height)

    def _draw(self) -> None:
        for row in self.rows:
            row.set_class(
                self._marked is not None and row.turn is not None and row.turn.id == self._marked.id, "-marked"
            )

    def _settle(self, row: Drawn, at_top: bool) -> None:
        super()._settle(row, at_top)
        self._draw()
