"""The model: those in the Hugging Face cache first, then those in the data folder and the starter; or one is typed."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from textual import on
from textual.app import ComposeResult
from textual.widgets import Input, OptionList
from textual.widgets.option_list import Option

from mp13.chat.library.model_offers import Offer, offers
from mp13.chat.settings.model import STARTER_NAMES, resolve_model
from mp13.chat.text import printable
from mp13.chat.wizard.background import in_background
from mp13.chat.wizard.state import State
from mp13.chat.wizard.step import Busy, Choices, Step, choice
from mp13.library.starter import STARTER

_WIDEST = 40  # characters of a name, before it wraps


class ModelStep(Step):
    NAME = "Model"
    HEADING = "Which model?"
    HINT = "Choose one that is here already, or type a Hub id, a folder or a GGUF file below the list (Tab goes there)."

    def __init__(self, state: State) -> None:
        super().__init__(state)
        self._offers: list[Offer] = []

    def compose(self) -> ComposeResult:
        yield Choices(id="models")
        yield Input(placeholder="or: org/name, ~/models/mine, model.gguf", compact=True, id="typed")
        yield Busy("looking for models", id="looking")

    def on_mount(self) -> None:
        self.run_worker(self._look(), exclusive=True)

    async def _look(self) -> None:
        found = await in_background(self.state.world.models)
        self.query_one("#looking", Busy).show("")
        self._offers = offers(found, self.state.draft.settings.model, self.state.world.starter_ready())
        choices = self.query_one(Choices)
        width = max(len(printable(offer.name)) for offer in self._offers)
        for offer in self._offers:
            row = choice(offer.name, offer.unfit or offer.detail, min(width, _WIDEST))
            choices.add_option(Option(row, disabled=bool(offer.unfit)))
        now = self.state.draft.settings.model
        names = [STARTER if offer.name in STARTER_NAMES else offer.name for offer in self._offers]
        choices.highlighted = names.index(STARTER if now in STARTER_NAMES else now)

    @on(OptionList.OptionSelected)
    def _chosen(self) -> None:
        self.query_one(Input).value = ""
        self.post_message(self.Done())

    @on(Input.Submitted)
    def _typed(self) -> None:
        self.post_message(self.Done())

    async def accept(self) -> None:
        name = self.query_one(Input).value.strip() or self._marked()
        if not name:
            return
        model = resolve_model(name)
        known = any(offer.name == name for offer in self._offers)
        if not known and not Path(model).is_absolute():  # a Hub id that is not here
            self.query_one("#looking", Busy).show(f"asking the Hub about {model}")
            try:
                self.state.measured[model] = await in_background(partial(self.state.world.measure, model))
            finally:
                self.query_one("#looking", Busy).show("")
        self.state.draft.choose(model=name)

    def _marked(self) -> str:
        index = self.query_one(Choices).highlighted
        return self._offers[index].name if index is not None else ""
