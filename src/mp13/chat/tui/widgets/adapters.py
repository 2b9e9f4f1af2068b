"""The adapters on disk: which of them are in the mix and how strongly, where each is now, and who answers next.

What it shows comes from outside (`tell`, `show`); what the reader chooses becomes the slash command `/adapter`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from textual import on
from textual.content import Content
from textual.message import Message
from textual.widget import Widget
from textual.widgets import OptionList, Static

from mp13.chat.text import one_line
from mp13.chat.tui.keymap import bind
from mp13.chat.tui.outlook import Outlook
from mp13.chat.tui.palette import mix_spans, mix_voices
from mp13.chat.tui.widgets.adapter_rows import adapter_facts, adapter_row, base_facts, base_row
from mp13.chat.tui.widgets.panel import Panel
from mp13.chat.tui.widgets.rows import MUTED, Rows
from mp13.mix import BASE, Mix, parse_mix

if TYPE_CHECKING:
    from mp13.chat.library.shelf import Shelved


class AdapterList(Rows):
    """Where the panel has its focus. Its keys go to the panel as `Pressed`, with the row that is marked."""

    BINDINGS = [
        bind("adapters.choose", "press('choose')", "Choose"),
        bind("adapters.toggle", "press('toggle')", "In or out"),
        bind("adapters.leave", "press('leave')", "Back"),
    ]

    class Pressed(Message):
        def __init__(self, what: str, name: str) -> None:
            super().__init__()
            self.what = what
            self.name = name

    def action_press(self, what: str) -> None:
        self.post_message(self.Pressed(what, self.marked or BASE))


class AdaptersPanel(Panel):
    TITLE, KEY = "Adapters", "adapters.panel"

    def __init__(self) -> None:
        super().__init__("adapters")
        self._outlook = Outlook()
        self._wanted: Mix | None = None  # what was chosen here and has not been done yet
        self._shelf: dict[str, Shelved] = {}

    def contents(self) -> Iterator[Widget]:
        self._mix_line = Static(markup=False, classes="mix")
        self._rows = AdapterList()
        self._facts = Static(markup=False, classes="facts")
        yield from (self._mix_line, self._rows, self._facts)

    def tell(self, outlook: Outlook, settled: bool) -> None:
        """What answers next. `settled`: nothing that was chosen here waits any more."""
        if settled:
            self._wanted = None
        self._outlook = outlook
        self.draw()

    def show(self, shelf: Sequence[Shelved]) -> None:
        """What is on disk, and where it is now."""
        self._shelf = {one.adapter.name: one for one in shelf}
        self.draw()

    @property
    def _mix(self) -> Mix:
        return self._wanted or parse_mix(self._outlook.mix)

    def draw(self) -> None:
        if not self._is_filled:
            return
        mix, width = self._mix, max(self._rows.scrollable_content_region.width, 12)
        rows = [(name, adapter_row(one, mix, width)) for name, one in self._shelf.items()]
        self._rows.show([(BASE, base_row(mix, width)), *rows])
        dots = [("●", f"${name}") for name in mix_voices(str(mix))]
        scope = "after this answer" if self._wanted is not None else self._outlook.scope
        said = [part for part in (scope, self._outlook.warmth) if part]
        self._mix_line.update(Content.assemble(*dots, " ", *mix_spans(str(mix)), "\n", (" · ".join(said), MUTED)))
        self._draw_facts()

    @on(OptionList.OptionHighlighted)
    def _marked(self, event: OptionList.OptionHighlighted) -> None:
        event.stop()
        self._draw_facts()

    def _draw_facts(self) -> None:
        one = self._shelf.get(self._rows.marked or "")
        self._facts.update(base_facts() if one is None else adapter_facts(one))

    @on(AdapterList.Pressed)
    def _pressed(self, event: AdapterList.Pressed) -> None:
        event.stop()
        match event.what:
            case "choose":
                self._choose(event.name)
            case "toggle":
                self._toggle(event.name)
            case "leave":
                self.action_leave()

    @on(OptionList.OptionSelected)
    def _clicked(self, event: OptionList.OptionSelected) -> None:
        event.stop()
        self._choose(event.option_id or BASE)

    def _choose(self, name: str) -> None:
        """Let `name` alone answer."""
        self._want(Mix() if name == BASE else Mix(((name, 1.0),)), name)

    def _toggle(self, name: str) -> None:
        if name == BASE:
            self._want(Mix(), name)
        else:
            self.weigh(name, None if self._mix.weight(name) is not None else 1.0)

    def weigh(self, name: str, weight: float | None) -> None:
        """Put `name` into the mix at `weight`; None takes it out."""
        self._want(self._mix.weighted(name, weight), name)

    def _want(self, mix: Mix, name: str) -> None:
        one = self._shelf.get(name)
        if one is not None and one.adapter.unfit and mix.weight(name) is not None:
            self.notify(f"{name} cannot be used: {one_line(one.adapter.unfit)}", severity="error", markup=False)
        elif mix != self._mix:
            self._wanted = mix
            self.draw()
            self.post_message(self.Wanted(f"/adapter {mix}"))
