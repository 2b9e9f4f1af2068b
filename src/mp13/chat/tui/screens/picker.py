"""The adapter picker: the base and every adapter on disk. Typing filters; a mix is taken as it is typed."""

from __future__ import annotations

from dataclasses import dataclass

from textual import on
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Input, OptionList, Static
from textual.widgets.option_list import Option

from mp13.chat.text import printable
from mp13.chat.tui.keymap import bind, hints
from mp13.chat.tui.palette import voice
from mp13.errors import MixError
from mp13.mix import BASE, parse_mix


@dataclass(frozen=True)
class Choice:
    """A row of the picker. `unfit` says why it cannot be chosen."""

    name: str
    detail: str
    unfit: str = ""


class AdapterPicker(ModalScreen[str | None]):
    """Gives the chosen mix, or None. `mix` is the one that answers now."""

    BINDINGS = [
        bind("dialog.keep", "keep", "Choose", priority=True),
        bind("dialog.close", "dismiss(None)", "Close"),
        bind("dialog.up", "move(-1)", priority=True),
        bind("dialog.down", "move(1)", priority=True),
        bind("dialog.complete", "complete", priority=True),
    ]

    def __init__(self, choices: list[Choice], mix: str) -> None:
        super().__init__()
        self._choices = choices
        self._shown: list[Choice] = []
        self._mix = mix

    def compose(self) -> ComposeResult:
        with Vertical(id="picker", classes="dialog") as dialog:
            dialog.border_title = "Who answers next?"
            dialog.border_subtitle = hints(self, keep="choose", complete="complete", close="close")
            field = Input(placeholder="filter, or a mix such as a:0.5+b:0.5", compact=True)
            field.cursor_blink = False
            yield field
            yield OptionList(markup=False, compact=True)
            yield Static(markup=False, classes="problem")

    def on_mount(self) -> None:
        self.query_one(OptionList).can_focus = False
        self._filter("")
        current = [index for index, choice in enumerate(self._shown) if choice.name == self._mix]
        self.query_one(OptionList).highlighted = current[0] if current else 0

    @on(Input.Changed)
    def _typed(self, event: Input.Changed) -> None:
        self._complain("")
        self._filter(_last_name(event.value))

    def _filter(self, text: str) -> None:
        self._shown = [choice for choice in self._choices if text.lower() in choice.name.lower()]
        options = self.query_one(OptionList)
        options.clear_options()
        options.add_options(Option(self._row(choice), disabled=bool(choice.unfit)) for choice in self._shown)
        options.action_first()

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

    def _complain(self, sentence: str) -> None:
        problem = self.query_one(".problem", Static)
        problem.update(Content(printable(sentence)))
        problem.display = bool(sentence)

    def _marked(self) -> Choice | None:
        index = self.query_one(OptionList).highlighted
        return None if index is None else self._shown[index]

    def action_move(self, step: int) -> None:
        options = self.query_one(OptionList)
        options.action_cursor_up() if step < 0 else options.action_cursor_down()

    def action_complete(self) -> None:
        """Finish the name being typed, so that a mix can go on behind it."""
        field = self.query_one(Input)
        if (marked := self._marked()) is not None:
            field.value = field.value.rpartition("+")[0] + ("+" if "+" in field.value else "") + marked.name
            field.cursor_position = len(field.value)

    @on(OptionList.OptionSelected)
    def _clicked(self, event: OptionList.OptionSelected) -> None:
        self.dismiss(self._shown[event.option_index].name)

    def action_keep(self) -> None:
        text, marked = self.query_one(Input).value.strip(), self._marked()
        if marked is not None and not {"+", ":"} & set(text):
            self.dismiss(marked.name)
            return
        try:
            mix = parse_mix(text)
            self._check(mix.names)
            self.dismiss(str(mix))
        except MixError as error:
            self._complain(str(error))

    def _check(self, names: tuple[str, ...]) -> None:
        known = {choice.name: choice for choice in self._choices}
        for name in names:
            if name not in known:
                raise MixError(f"There is no adapter {name!r} on disk; choose one of the list, or type a mix of them.")
            if known[name].unfit:
                raise MixError(f"{name!r} cannot be used: {known[name].unfit}")


def _last_name(text: str) -> str:
    return text.rpartition("+")[2].partition(":")[0].strip()
