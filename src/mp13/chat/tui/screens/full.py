"""The choice that a reader has when the context is full: nothing is left out unasked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from textual import on
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from mp13.chat.tui.keymap import bind, hints
from mp13.chat.tui.screens.dialog import Dialog

if TYPE_CHECKING:
    from mp13.chat.conversation.room import Room

Choice = Literal["drop", "branch", "cancel"]


class FullScreen(Dialog[Choice]):
    BINDINGS = [
        bind("dialog.keep", "keep", "Choose", priority=True),
        bind("dialog.close", "dismiss('cancel')", "Close"),
    ]

    def __init__(self, room: Room) -> None:
        super().__init__()
        self._room = room

    def compose(self) -> ComposeResult:
        from mp13.chat.conversation.room import oldest_exchanges

        room = self._room
        oldest = oldest_exchanges(room.dropped)
        tokens = f"{room.prompt_tokens - room.kept_tokens:,} tokens"
        with Vertical(id="full", classes="dialog") as dialog:
            dialog.border_title = "The context is full"
            dialog.border_subtitle = hints(self, down="mark", keep="choose", close="cancel")
            yield Static(
                f"This conversation has {room.prompt_tokens:,} tokens; the model reads {room.context_limit:,}, "
                "and the answer needs room too.",
                markup=False,
            )
            yield OptionList(
                Option(f"Leave out {oldest} ({tokens})", "drop"),
                Option(f"Branch: a new conversation that begins after {oldest}", "branch"),
                Option("Cancel: the prompt comes back, and nothing has changed", "cancel"),
                markup=False,
                compact=True,
            )

    def on_mount(self) -> None:
        """Nothing is marked: an Enter of who is still typing chooses nothing."""
        self.query_one(OptionList).highlighted = None

    def action_keep(self) -> None:
        self.query_one(OptionList).action_select()

    @on(OptionList.OptionSelected)
    def _chosen(self, event: OptionList.OptionSelected) -> None:
        choices: dict[str | None, Choice] = {"drop": "drop", "branch": "branch"}
        self.dismiss(choices.get(event.option_id, "cancel"))
