"""The adapters on disk: which of them are in the mix and how strongly, where each is now, and who answers next.

What it shows comes from outside (`tell`, `show`); what the reader chooses becomes the slash command `/adapter`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from textual import events, on
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
    from textual.timer import Timer

    from mp13.chat.library.shelf import Shelved

SETTLE_S = 0.25  # without another step, after which weights count
HEAVIEST = 10.0  # that can be reached here; /adapter takes any weight
_LONGEST_WEIGHT = 5  # characters, as 10.25


class AdapterList(Rows):
    """Where the panel has its focus. Its keys go to the panel as `Pressed`, with the row that is marked."""

    BINDINGS = [
        bind("adapters.choose", "press('choose')", "Choose"),
        bind("adapters.toggle", "press('toggle')", "In or out"),
        bind("adapters.heavier", "press('step', 0.1)", "Weight"),
        bind("adapters.lighter", "press('step', -0.1)"),
        bind("adapters.bit_heavier", "press('step', 0.05)"),
        bind("adapters.bit_lighter", "press('step', -0.05)"),
        bind("adapters.pin", "press('pin')", "Pin"),
        bind("adapters.follow", "press('follow')", "Live"),
        bind("adapters.leave", "press('leave')", "Back"),
    ]

    class Pressed(Message):
        def __init__(self, what: str, name: str, step: float = 0.0, digit: str = "") -> None:
            super().__init__()
            self.what = what
            self.name = name
            self.step = step
            self.digit = digit

    def action_press(self, what: str, step: float = 0.0) -> None:
        self.post_message(self.Pressed(what, self.marked or BASE, step))

    def on_key(self, event: events.Key) -> None:
        """A number that is typed is a weight."""
        if (event.character and event.character in "0123456789.") or event.key == "backspace":
            self.post_message(
                self.Pressed(
                    "type", self.marked or BASE, digit="" if event.key == "backspace" else event.character or ""
                )
            )
            event.stop()


class AdaptersPanel(Panel):
    TITLE, KEY = "Adapters", "adapters.panel"

    class Followed(Message):
        """The last answer is to follow the mix, or no more."""

    class Decided(Message):
        """The preview is to be kept, or dropped."""

        def __init__(self, keeps: bool) -> None:
            super().__init__()
            self.keeps = keeps

    def __init__(self) -> None:
        super().__init__("adapters")
        self._outlook = Outlook()
        self._marks: str | None = None  # the mix with which the mark went last
        self._wanted: Mix | None = None  # what was chosen here and has not been done yet
        self._sending: Timer | None = None  # weights move faster than they are sent
        self._typed = ""  # the weight that is being typed for the marked adapter
        self._shelf: dict[str, Shelved] = {}
        self._is_live = self._has_preview = False

    def contents(self) -> Iterator[Widget]:
        self._mix_line = Static(markup=False, classes="mix")
        self._rows = AdapterList()
        self._facts = Static(markup=False, classes="facts")
        yield from (self._mix_line, self._rows, self._facts)

    def tell(self, outlook: Outlook, settled: bool) -> None:
        """What answers next. `settled`: nothing that was chosen here waits any more."""
        if self._sending is None and (settled or outlook.mix == str(self._wanted)):
            self._wanted = None
        self._outlook = outlook
        self.draw()
        self._mark_mix()

    def tell_live(self, is_live: bool, has_preview: bool) -> None:
        """Whether the last answer follows, and a preview of it is seen: then Enter and Escape are about that."""
        self._is_live, self._has_preview = is_live, has_preview
        self.draw()

    def show(self, shelf: Sequence[Shelved]) -> None:
        """What is on disk, and where it is now."""
        self._shelf = {one.adapter.name: one for one in shelf}
        self.draw()
        self._mark_mix()

    def _mark_mix(self) -> None:
        """The mark goes with the mix, but not under the reader's hands once it has been on one."""
        mix = self._outlook.mix
        head = next(iter(parse_mix(mix).names), BASE)
        if not self._is_filled or mix == self._marks or (head != BASE and head not in self._shelf):
            return
        if self._marks is None or not self._rows.has_focus:
            self._rows.mark(head)
        self._marks = mix

    @property
    def _mix(self) -> Mix:
        return self._wanted or parse_mix(self._outlook.mix)

    def draw(self) -> None:
        if not self._is_filled:
            return
        mix, width = self._mix, max(self._rows.scrollable_content_region.width, 12)
        rows = [
            (name, adapter_row(one, mix, width, _digit(n), self._typed if name == self._rows.marked else ""))
            for n, (name, one) in enumerate(self._shelf.items(), start=1)
        ]
        self._rows.show([(BASE, base_row(mix, width)), *rows])
        dots = [("●", f"${name}") for name in mix_voices(str(mix))]
        scope = "after this answer" if self._wanted is not None else self._outlook.scope
        said = [part for part in (scope, self._outlook.warmth) if part]
        live = [("\n↻ the last answer follows", "$accent")] if self._is_live else []
        line = Content.assemble(*dots, " ", *mix_spans(str(mix)), "\n", (" · ".join(said), MUTED), *live)
        self._mix_line.update(line)
        self._draw_facts()

    @on(OptionList.OptionHighlighted)
    def _marked(self, event: OptionList.OptionHighlighted) -> None:
        event.stop()
        self._typed = ""
        self.draw()

    def _draw_facts(self) -> None:
        one = self._shelf.get(self._rows.marked or "")
        self._facts.update(base_facts() if one is None else adapter_facts(one))

    @on(AdapterList.Pressed)
    def _pressed(self, event: AdapterList.Pressed) -> None:
        event.stop()
        typed, self._typed = self._typed, ""
        match event.what:
            case "type":
                self._type(event.name, typed, event.digit)
            case "leave" if typed:
                self.draw()
            case "choose" if typed:
                self.weigh(event.name, min(float(typed), HEAVIEST) if typed.strip(".") else None)
            case "choose" | "leave" if self._has_preview:
                self.post_message(self.Decided(event.what == "choose"))
            case "choose":
                self.choose(event.name)
            case "toggle":
                self._toggle(event.name)
            case "step":
                self._step(event.name, event.step)
            case "pin":
                self._pin()
            case "follow":
                self.post_message(self.Followed())
            case "leave":
                self.action_leave()

    @on(OptionList.OptionSelected)
    def _clicked(self, event: OptionList.OptionSelected) -> None:
        event.stop()
        self.choose(event.option_id or BASE)

    def choose(self, name: str) -> None:
        """Let `name` alone answer."""
        self._want(Mix() if name == BASE else Mix(((name, 1.0),)), name)

    def _toggle(self, name: str) -> None:
        if name == BASE:
            self._want(Mix(), name)
        else:
            self.weigh(name, None if self._mix.weight(name) is not None else 1.0)

    def _type(self, name: str, typed: str, digit: str) -> None:
        """The weight that is being written is taken with Enter."""
        self._typed = "" if name == BASE else typed[:-1] if not digit else typed + digit
        if self._typed.count(".") > 1 or len(self._typed) > _LONGEST_WEIGHT:
            self._typed = typed
        self.draw()

    def _step(self, name: str, step: float) -> None:
        if name == BASE:
            self.notify("The base has no weight; mark an adapter first.")
            return
        weight = round((self._mix.weight(name) or 0.0) + step, 2)
        self.weigh(name, min(max(weight, -HEAVIEST), HEAVIEST))

    def _pin(self) -> None:
        is_pinned = self._session is not None and self._session.pin is not None
        self.post_message(self.Wanted("/pin -" if is_pinned else f"/pin {self._mix}"))

    def weigh(self, name: str, weight: float | None) -> None:
        """Put `name` into the mix at `weight`; None takes it out."""
        self._want(self._mix.weighted(name, weight), name, SETTLE_S)

    def _want(self, mix: Mix, name: str, after_s: float = 0.0) -> None:
        """Have `mix` answer, once nothing else was wanted for `after_s`."""
        one = self._shelf.get(name)
        if one is not None and one.adapter.unfit and mix.weight(name) is not None:
            self.notify(f"{name} cannot be used: {one_line(one.adapter.unfit)}", severity="error", markup=False)
        elif mix != self._mix:
            self._wanted = mix
            self.draw()
            if self._sending is not None:
                self._sending.stop()
            self._sending = self.set_timer(after_s, self._send) if after_s else None
            if not after_s:
                self._send()

    def _send(self) -> None:
        self._sending = None
        if self._wanted is not None:
            self.post_message(self.Wanted(f"/adapter {self._wanted}"))


def _digit(place: int) -> str:
    return str(place) if place < 10 else " "
