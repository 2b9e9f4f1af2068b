"""The model picker: what is on this machine, the Hugging Face cache first; a Hub id, folder or file can be typed."""

from __future__ import annotations

from textual.content import Content
from textual.widgets.option_list import Option

from mp13.chat.library.model_offers import Offer
from mp13.chat.settings.model import resolve_model
from mp13.chat.text import one_line
from mp13.chat.tui.screens.choosing import Choosing
from mp13.errors import Mp13Error

_WIDEST = 44  # cells of a name, before its detail has to give way


class ModelPicker(Choosing[str | None]):
    """Gives the /model that switches, or None."""

    ID = "models"
    QUESTION = "Which model answers next?"
    PLACEHOLDER = "filter, or org/name, a folder, a GGUF file"

    def __init__(self, found: list[Offer], now: str) -> None:
        super().__init__()
        self._found = found
        self._shown: list[Offer] = []
        self._now = now

    def on_mount(self) -> None:
        super().on_mount()
        names = [offer.name for offer in self._shown]
        self.options.highlighted = names.index(self._now) if self._now in names else 0

    def look(self, text: str) -> None:
        self._shown = [offer for offer in self._found if text.lower() in offer.name.lower()]
        self.options.set_options(Option(self._row(offer), disabled=bool(offer.unfit)) for offer in self._shown)
        self.options.action_first()

    def _row(self, offer: Offer) -> Content:
        width = min(max(len(one_line(offer.name)) for offer in self._found), _WIDEST)
        mark = "●" if offer.name == self._now else "○"
        detail = (one_line(offer.unfit), "$text-error") if offer.unfit else (one_line(offer.detail), "$foreground 60%")
        return Content.assemble(f"{mark} {one_line(offer.name).ljust(width)}  ", detail)

    def take(self, row: int) -> None:
        self._choose(self._shown[row].name)

    def enter(self) -> None:
        row = self.options.highlighted
        if row is not None and self._shown and not self._shown[row].unfit:
            self.take(row)
        elif self.typed:
            self._choose(self.typed)

    def _choose(self, name: str) -> None:
        unfit = next((offer.unfit for offer in self._found if offer.name == name), "")
        try:
            resolve_model(name)
        except Mp13Error as error:
            self.tell(str(error))
            return
        if unfit:
            self.tell(f"{name} cannot be used: {unfit}")
        else:
            self.dismiss(f"/model {name}" if name != self._now else None)
