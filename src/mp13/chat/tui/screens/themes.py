"""The theme picker: what is marked is tried on at once; Enter keeps it, Esc brings back the one before."""

from textual import on
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.widgets import OptionList
from textual.widgets.option_list import Option

from mp13.chat.settings.themes import THEMES
from mp13.chat.tui.keymap import bind, hints
from mp13.chat.tui.screens.dialog import Dialog


class ThemePicker(Dialog[None]):
    BINDINGS = [bind("dialog.keep", "keep", "Keep", priority=True), bind("dialog.close", "give_up", "Close")]

    def compose(self) -> ComposeResult:
        with Vertical(id="themes", classes="dialog") as dialog:
            dialog.border_title = "Theme"
            dialog.border_subtitle = hints(self, keep="keep", close="leave")
            yield OptionList(*(Option(name, name) for name in THEMES), markup=False, compact=True)

    def on_mount(self) -> None:
        self._before = self.app.theme
        self.query_one(OptionList).highlighted = THEMES.index(self._before)

    @on(OptionList.OptionHighlighted)
    def _try_on(self, event: OptionList.OptionHighlighted) -> None:
        self.app.theme = event.option_id or self._before

    @on(OptionList.OptionSelected)
    def action_keep(self) -> None:
        self.dismiss()
        if self.app.theme != self._before:
            self.notify(f"mp13config set theme {self.app.theme} keeps it for the next time.", markup=False)

    def action_give_up(self) -> None:
        self.app.theme = self._before
        self.dismiss()
