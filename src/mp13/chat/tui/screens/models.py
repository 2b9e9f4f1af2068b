"""The model picker: what is on this machine, the Hugging Face cache first; a Hub id, folder or file can be typed."""

from __future__ import annotations

from textual import on
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Input, OptionList, Static
from textual.widgets.option_list import Option

from mp13.chat.library.model_offers import Offer
from mp13.chat.settings.model import resolve_model
from mp13.chat.text import one_line
from mp13.chat.tui.keymap import bind, hints
from mp13.chat.tui.widgets.fields import ChoiceField
from mp13.errors import Mp13Error

_WIDEST = 44  # cells of a name, before its detail has to give way


class ModelPicker(ModalScreen[str | None]):
    """Gives the /model that switches, or None."""

    BINDINGS = [
        bind("dialog.close", "dismiss(None)", "Close"),
        bind("dialog.up", "move(-1)", priority=True),
        bind("dialog.down", "move(1)", priority=True),
    ]

    def __init__(self, found: list[Offer], now: str) -> None:
        super().__init__()
        self._found = found
        self._shown: list[Offer] = []
        self._now = now

    def compose(self) -> ComposeResult:
        with Vertical(id="models", classes="dialog") as dialog:
            dialog.border_title = "Which model answers next?"
            dialog.border_subtitle = hints(self, keep="choose", close="close")
            yield ChoiceField("filter, or org/name, a folder, a GGUF file")
            yield OptionList(markup=False, compact=True)
            yield Static(markup=False, classes="problem")

    def on_mount(self) -> None:
        options = self.query_one(OptionList)
        options.can_focus = False
        self._filter("")
        names = [offer.name for offer in self._shown]
        options.highlighted = names.index(self._now) if self._now in names else 0

    @on(Input.Changed)
    def _typed(self, event: Input.Changed) -> None:
        self._complain("")
        self._filter(event.value.strip())

    def _filter(self, text: str) -> None:
        self._shown = [offer for offer in self._found if text.lower() in offer.name.lower()]
        options = self.query_one(OptionList)
        options.clear_options()
        options.add_options(Option(self._row(offer), disabled=bool(offer.unfit)) for offer in self._shown)
        options.action_first()

    def _row(self, offer: Offer) -> Content:
        width = min(max(len(one_line(offer.name)) for offer in self._found), _WIDEST)
        mark = "●" if offer.name == self._now else "○"
        detail = (one_line(offer.unfit), "$text-error") if offer.unfit else (one_line(offer.detail), "$foreground 60%")
        return Content.assemble(f"{mark} {one_line(offer.name).ljust(width)}  ", detail)

    def _complain(self, sentence: str) -> None:
        problem = self.query_one(".problem", Static)
        problem.update(Content(one_line(sentence)))
        problem.display = bool(sentence)

    def action_move(self, step: int) -> None:
        options = self.query_one(OptionList)
        options.action_cursor_up() if step < 0 else options.action_cursor_down()

    @on(OptionList.OptionSelected)
    def _clicked(self, event: OptionList.OptionSelected) -> None:
        self._choose(self._shown[event.option_index].name)

    @on(Input.Submitted)
    def _keep(self) -> None:
        index = self.query_one(OptionList).highlighted
        typed = self.query_one(Input).value.strip()
        if index is not None and self._shown and not self._shown[index].unfit:
            self._choose(self._shown[index].name)
        elif typed:
            self._choose(typed)

    def _choose(self, name: str) -> None:
        unfit = next((offer.unfit for offer in self._found if offer.name == name), "")
        try:
            resolve_model(name)
        except Mp13Error as error:
            self._complain(str(error))
            return
        if unfit:
            self._complain(f"{name} cannot be used: {unfit}")
        else:
            self.dismiss(f"/model {name}" if name != self._now else None)
