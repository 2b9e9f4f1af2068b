"""The adapter picker: the base and every adapter on disk. Typing filters; a mix is taken as it is typed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from textual.content import Content
from textual.widgets import Input
from textual.widgets.option_list import Option

from mp13.chat.text import printable
from mp13.chat.tui.keymap import bind
from mp13.chat.tui.palette import voice
from mp13.chat.tui.screens.choosing import Choosing
from mp13.errors import MixError
from mp13.mix import BASE, parse_mix

if TYPE_CHECKING:
    from mp13.chat.conversation.session import ChatSession


@dataclass(frozen=True)
class Choice:
    """A row of the picker. `unfit` says why it cannot be chosen."""

    name: str
    detail: str
    unfit: str = ""


def choices(session: ChatSession) -> list[Choice]:
    """The rows of the picker: the base, then what is on disk; whether the engine holds it, its kind, rank and size."""
    loaded = {adapter.name for adapter in session.adapters}
    found = [Choice(BASE, "the model alone")]
    for adapter in session.available_adapters():
        state = " · loaded" if adapter.name in loaded else ""
        detail = f"{adapter.kind} · rank {adapter.rank} · {adapter.size_bytes / 1e6:.1f} MB{state}"
        found.append(Choice(adapter.name, detail, adapter.unfit or ""))
    return found


class AdapterPicker(Choosing[str | None]):
    """Gives the chosen mix, or None. `mix` is the one that answers now."""

    BINDINGS = [bind("dialog.complete", "complete", priority=True)]
    ID = "picker"
    QUESTION = "Who answers next?"
    PLACEHOLDER = "filter, or a mix such as a:0.5+b:0.5"
    WORDS = {"keep": "choose", "complete": "complete", "close": "close"}

    def __init__(self, choices: list[Choice], mix: str) -> None:
        super().__init__()
        self._choices = choices
        self._shown: list[Choice] = []
        self._mix = mix

    def on_mount(self) -> None:
        super().on_mount()
        current = [index for index, choice in enumerate(self._shown) if choice.name == self._mix]
        self.options.highlighted = current[0] if current else 0

    def look(self, text: str) -> None:
        name = _last_name(text)
        self._shown = [choice for choice in self._choices if name.lower() in choice.name.lower()]
        self.options.set_options(Option(self._row(choice), disabled=bool(choice.unfit)) for choice in self._shown)
        self.options.action_first()

    def _row(self, choice: Choice) -> Content:
        colour = "$voice-base" if choice.name == BASE else f"${voice(choice.name)}"
        name = printable(choice.name).ljust(max(len(choice.name) for choice in self._choices))
        if choice.unfit:
            return Content.assemble(f"  {name}  ", (printable(choice.unfit), "$text-error"))
        mark = "●" if choice.name in self._mix_names() else "○"
        return Content.assemble(
            (f"{mark} ", colour), (name, f"bold {colour}"), (f"  {choice.detail}", "$foreground 60%")
        )

    def _mix_names(self) -> tuple[str, ...]:
        return parse_mix(self._mix).names or (BASE,)

    def _marked(self) -> Choice | None:
        index = self.options.highlighted
        return None if index is None else self._shown[index]

    def action_complete(self) -> None:
        """Finish the name being typed, so that a mix can go on behind it."""
        field = self.query_one(Input)
        if (marked := self._marked()) is not None:
            field.value = field.value.rpartition("+")[0] + ("+" if "+" in field.value else "") + marked.name
            field.cursor_position = len(field.value)

    def take(self, row: int) -> None:
        self.dismiss(self._shown[row].name)

    def enter(self) -> None:
        text, marked = self.typed, self._marked()
        if marked is not None and not {"+", ":"} & set(text):
            self.dismiss(marked.name)
            return
        try:
            mix = parse_mix(text)
            self._check(mix.names)
            self.dismiss(str(mix))
        except MixError as error:
            self.tell(str(error))

    def _check(self, names: tuple[str, ...]) -> None:
        known = {choice.name: choice for choice in self._choices}
        for name in names:
            if name not in known:
                raise MixError(f"There is no adapter {name!r} on disk; choose one of the list, or type a mix of them.")
            if known[name].unfit:
                raise MixError(f"{name!r} cannot be used: {known[name].unfit}")


def _last_name(text: str) -> str:
    return text.rpartition("+")[2].partition(":")[0].strip()
