"""One line to type in: that of a dialog, and the two of the conversations panel, which search and give a title."""

from textual.message import Message
from textual.widgets import Input

from mp13.chat.tui.keymap import ActsInOrder, bind


class Field(ActsInOrder, Input):
    """One line that does not blink."""

    def __init__(self, placeholder: str = "") -> None:
        super().__init__(placeholder=placeholder, compact=True)
        self.cursor_blink = False


class ChoiceField(Field):
    """Typing filters or fills in; Enter takes what is there after all that was typed before it."""

    BINDINGS = [bind("dialog.keep", "submit")]


class SearchField(Field):
    """Where the panel has its focus: letters search, and the panel's own keys go to it as `Pressed`."""

    BINDINGS = [
        bind("conversations.open", "press('open')", "Open"),
        bind("conversations.rename", "press('rename')", "Rename"),
        bind("conversations.archive", "press('archive')", "Archive"),
        bind("conversations.delete", "press('delete')", "Delete"),
        bind("conversations.up", "press('up')"),
        bind("conversations.down", "press('down')"),
        bind("conversations.leave", "press('leave')", "Back"),
    ]

    class Pressed(Message):
        def __init__(self, what: str) -> None:
            super().__init__()
            self.what = what

    def action_press(self, what: str) -> None:
        self.post_message(self.Pressed(what))

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Del deletes a conversation only where it has no character to delete."""
        deletes_text = parameters == ("delete",) and self.cursor_position < len(self.value)
        return False if deletes_text else super().check_action(action, parameters)


class TitleField(Field):
    """Lies over the row whose title it changes."""

    BINDINGS = [bind("dialog.keep", "submit", "Save"), bind("dialog.close", "give_up", "Leave as it is")]

    class GivenUp(Message):
        pass

    def action_give_up(self) -> None:
        self.post_message(self.GivenUp())
