"""What keys and clicks do to the turn under the cursor: edit, answer again, walk its siblings, copy, fork, delete.

Each is the slash command of the same kind, run without a row of its own. When they run is screens/conversation.py's.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

from textual import on

from mp13.chat.text import one_line, printable
from mp13.chat.tui.events import Entry
from mp13.chat.tui.keymap import bind, key_label
from mp13.chat.tui.screens.frame import Frame
from mp13.chat.tui.widgets.turn_cursor import TurnCursor
from mp13.errors import Mp13Error

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mp13.chat.conversation.ask import Ask
    from mp13.chat.conversation.store_search import Found
    from mp13.chat.conversation.turn import Turn


class TurnsFrame(Frame):
    BINDINGS = [
        bind("chat.undo", "undo", priority=True),
        bind("chat.redo", "redo", priority=True),
        bind("conversations.search", "search", priority=True),
        bind("turns.enter", "step(-1)", "Turns"),
        bind("turns.onward", "step(1)"),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._told: set[Entry] = set()  # commands whose end is a notification
        self._edited: Turn | None = None  # the turn whose text is in the prompt
        self._draft = ""  # what was in the prompt before that
        self._undone = 0  # things done to the conversation, undone since and not done again
        self._wanted_turn = ""  # the id of that to which the cursor is to go
        self._copied: tuple[str, int] = ("", 0)  # the turn whose code was copied last, and which block

    @abstractmethod
    async def _submit(self, text: str | None, ask: Ask | None = None) -> None:
        """Send what the reader wrote, or an `ask` that `text` describes."""

    @abstractmethod
    async def _redraw(self, at: int | None) -> None:
        """Draw the path anew, with the turn at `at` in sight."""

    async def action_step(self, step: int) -> None:
        await self._transcript.action_step(step)

    async def action_undo(self) -> None:
        if self._regions.conversations.can_undo:
            self._regions.conversations.undo()
        else:
            self._undone += self._change("/undo")

    async def action_redo(self) -> None:
        self._undone -= self._change("/redo") and self._undone > 0

    def action_search(self) -> None:
        """Look for words in all conversations, and go to the turn that is chosen."""
        if (session := self._session) is None:
            self.notify("One moment: the chat is still starting.")
        elif session.store is None:
            self.notify("Nothing is kept in this chat: it began with --no-log.", severity="warning")
        else:
            from mp13.chat.tui.screens.search import SearchScreen

            self.app.push_screen(SearchScreen(session.store, session.conversation_id), self._go_to_found)

    def _go_to_found(self, found: Found | None) -> None:
        if found is None or self._session is None or not self._may_change():
            return
        if found.conversation_id != self._session.conversation_id:
            self._run_quietly(f"/resume {found.conversation_id}")
        self._wanted_turn = found.turn_id
        self._run_quietly(f"/go {found.turn_id}")

    def action_walk(self, turn_id: str, step: int) -> None:
        """Show the sibling before (-1) or after (1) a turn."""
        row = next((row for row in self._transcript.rows if row.turn is not None and row.turn.id == turn_id), None)
        if self._session is None or row is None or row.turn is None:
            return
        number, count = self._session.place(row.turn)
        if count == 1:
            self.notify("Nothing stands beside this turn.", markup=False)
        elif 1 <= number + step <= count:
            self._transcript.mark(row.turn)
            self._change(f"/{'next' if step > 0 else 'previous'} {turn_id}", tells=False)  # the badge says it

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        history = self._prompt.history  # what is being written in the prompt has an undo of its own
        if action == "undo":
            return not (self._prompt.has_focus and history.undo_stack)
        if action == "redo":
            return self._undone > 0 or not (self._prompt.has_focus and history.redo_stack)
        if action == "step":
            return self._transcript.has_turns and (self._transcript.turn is not None or parameters == (-1,))
        return super().check_action(action, parameters)

    @on(TurnCursor.Left)
    def _cursor_left(self) -> None:
        self._prompt.focus()

    @on(TurnCursor.Wanted)
    async def _do_to_turn(self, event: TurnCursor.Wanted) -> None:
        turn = event.turn
        if self._session is None:
            return
        match event.what:
            case "previous" | "next":
                self.action_walk(turn.id, 1 if event.what == "next" else -1)
            case "edit":
                self._edit(self._session.prompt_of(turn))
            case "again":
                await self._have_answered(f"/again {self._named(turn)}")
            case "continue":
                await self._go_on(turn)
            case "details":
                from mp13.chat.tui.screens.report import ReportScreen

                self.app.push_screen(ReportScreen(self._session.details(turn)))
            case "replay":
                await self._submit(f"/replay {self._named(turn)}")
            case "copy":
                self._copy(turn)
            case "code":
                self._copy_code(turn)
            case "fork":
                self._change(f"/fork {self._named(turn)}")
            case "pin":
                mix = "-" if self._session.pin_at(turn) == turn.mix else turn.mix
                self._change(f"/pin {mix} {self._named(turn)}")
            case "delete":
                self._change(f"/delete {self._named(turn)}")

    async def _go_on(self, turn: Turn) -> None:
        assert self._session is not None
        if turn.id != self._session.turns[-1].id or turn.finish_reason == "stop" or not turn.token_ids:
            self.notify("Only a last answer that was cut off can go on.", severity="warning")
        else:
            await self._have_answered("/continue")

    def _edit(self, prompt: Turn) -> None:
        """Put the turn's text in the prompt; what stood there comes back later."""
        if self._edited is None:
            self._draft = self._prompt.text
        self._edited = prompt
        self._prompt.border_title = f"Ask it differently · {key_label(self, 'answer.stop')} leaves it as it was"
        self._prompt.show(f"/{prompt.text}" if prompt.text.startswith("/") else prompt.text)
        self._prompt.focus()
        self.refresh_bindings()

    def _leave_edit(self) -> None:
        self._edited = None
        self._prompt.border_title = ""
        self._prompt.show(self._draft)
        self.refresh_bindings()

    def _edit_of(self, text: str) -> Ask | None:
        """What sending `text` asks, where it is the new text of a turn."""
        from mp13.chat.commands.table import is_command, prompt_of
        from mp13.chat.conversation.ask import Ask

        if self._edited is None or is_command(text):
            return None
        ask = Ask(prompt_of(text), turn=self._edited.id)
        self._leave_edit()
        return ask

    def _copy(self, turn: Turn) -> None:
        from mp13.chat.conversation.reasoning import answer_in

        text = printable(answer_in(turn.text))
        self.app.copy_to_clipboard(text)
        self.notify(f"Copied: {one_line(text)[:40]}", markup=False)

    def _copy_code(self, turn: Turn) -> None:
        from mp13.chat.conversation.code_blocks import code_blocks
        from mp13.chat.conversation.reasoning import answer_in

        blocks = code_blocks(answer_in(turn.text))
        if not blocks:
            self.notify(
                f"There is no block of code in it; {key_label(self, 'turns.copy')} copies its text.", markup=False
            )
            return
        before, place = self._copied
        place = (place + 1) % len(blocks) if before == turn.id else 0
        self._copied = turn.id, place
        self.app.copy_to_clipboard(printable(blocks[place]))
        which = f"block {place + 1} of {len(blocks)}" if len(blocks) > 1 else "the block of code"
        self.notify(f"Copied {which}: {one_line(blocks[place])[:40]}", markup=False)

    async def _offer_remedy(self, entry: Entry, remedy: Ask) -> None:
        """The context is full: say how much does not fit, and let the reader choose."""
        assert self._session is not None
        if not self._is_settled:
            return
        try:
            room = await self._session.room(remedy.mixes[0])
        except Mp13Error:
            return  # that the context is full is on the screen already
        if room.is_enough:
            from mp13.chat.tui.screens.full import FullScreen

            choice = await self.app.push_screen_wait(FullScreen(room))
        else:
            choice = "cancel"
        if choice == "drop":
            await self._submit(entry.text, remedy)
        elif choice == "branch":
            await self._submit(f"/branch {self._session.turns[-1].skipped + room.dropped}")
        else:
            self._prompt.offer(entry.text)
            unanswered = self._session.turns[-1:] and self._session.turns[-1].role == "user"
            if unanswered and entry.ask is None and not entry.is_command:
                self._run_quietly("/undo")

    async def _have_answered(self, command: str) -> None:
        if self._may_change():
            self._prompt.focus()
            await self._submit(command)

    def _change(self, command: str, tells: bool = True) -> bool:
        """Run a command that changes the conversation at once, if it may; what it says is a notification."""
        if may := self._may_change():
            entry = self._run_quietly(command)
            if tells:
                self._told.add(entry)
        return may

    def _may_change(self) -> bool:
        if not self._is_settled:
            stop = key_label(self, "answer.stop")
            self.notify(f"An answer is being written; {stop} stops it.", severity="warning", markup=False)
        return self._is_settled

    def _named(self, turn: Turn) -> str:
        """Its number, where it stands on the path."""
        assert self._session is not None
        ids = [one.id for one in self._session.turns]
        return str(ids.index(turn.id) + 1) if turn.id in ids else turn.id

    async def _follow(self) -> None:
        """The path has become another: draw it, and keep the cursor where it was."""
        marked = self._transcript.turn
        turns = self._session.turns if self._session is not None else []
        at = None if marked is None else _nearest(turns, marked)
        if self._wanted_turn in (ids := [turn.id for turn in turns]):
            at = ids.index(self._wanted_turn)
            marked, self._wanted_turn = turns[at], ""
        await self._redraw(at)
        if marked is not None:
            self._transcript.mark(None if at is None else turns[at])
            if at is None:
                self._prompt.focus()

    def _tell_places(self) -> None:
        """Turns may have others beside them now."""
        if self._session is not None:
            for row in self._transcript.rows:
                if row.turn is not None:
                    row.tell_place(self._session.place(row.turn))


def _nearest(turns: Sequence[Turn], turn: Turn) -> int | None:
    """Where `turn` is on a path; else what stands in its place; else what it followed."""
    for number, one in enumerate(turns):
        if one.id == turn.id or one.parent_id == turn.parent_id:
            return number
    return next((number for number, one in enumerate(turns) if one.id == turn.parent_id), None)
