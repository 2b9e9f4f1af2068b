"""The sampling panel: every parameter with its value, checked as it is typed. It gives the /sampling that sets them."""

from __future__ import annotations

import shlex

from textual import events, on
from textual.widgets import Input

from mp13.chat.commands.setups import sampling_text
from mp13.chat.settings.load import check_values
from mp13.chat.settings.schema import SamplingSettings, Settings
from mp13.chat.tui.keymap import bind
from mp13.chat.tui.screens.form import Form, FormField
from mp13.errors import Mp13Error


class SamplingScreen(Form):
    BINDINGS = [bind("dialog.reset", "reset", "Defaults", priority=True)]
    TITLE_TEXT = "How answers are sampled"
    WORDS = {"keep": "keep", "reset": "defaults", "close": "leave"}

    def __init__(self, settings: Settings, defaults: Settings) -> None:
        """`defaults` are those that the chat began with."""
        super().__init__()
        self._now = {key: sampling_text(getattr(settings, key)) for key in SamplingSettings.model_fields}
        self._defaults = {key: sampling_text(getattr(defaults, key)) for key in self._now}

    def fields(self) -> list[FormField]:
        return [FormField(key, value, f"default {self._defaults[key]}") for key, value in self._now.items()]

    @property
    def _values(self) -> dict[str, str]:
        return {field.key: field.input.value.strip() for field in self._fields}

    def on_descendant_focus(self, event: events.DescendantFocus) -> None:
        field = event.widget.parent
        if isinstance(field, FormField):
            self.tell(str(SamplingSettings.model_fields[field.key].description).replace("`", ""))

    @on(Input.Changed)
    def _check(self) -> None:
        problems = self._problems()
        for field in self._fields:
            field.complain(problems.get(field.key, ""))

    def _problems(self) -> dict[str, str]:
        """By field, what is wrong with its value; with all of them together only where each is right by itself."""
        values, problems = self._values, dict[str, str]()
        for key, value in values.items():
            try:
                check_values({**self._now, key: value})
            except Mp13Error as error:
                problems[key] = _about(key, error)
        if set(problems) <= {"min_tokens", "max_tokens"}:  # the one is measured by the other
            problems = {}
            try:
                check_values(values)
            except Mp13Error as error:
                key = str(error).partition(" = ")[0]
                problems[key] = _about(key, error)
        return problems

    def action_reset(self) -> None:
        for field in self._fields:
            field.input.value = self._defaults[field.key]

    def keep(self) -> None:
        if problems := self._problems():
            wrong = next(field for field in self._fields if field.key in problems)
            wrong.input.focus()
            return
        changed = {key: value for key, value in self._values.items() if value != self._now[key]}
        words = " ".join(shlex.quote(f"{key}={value}") for key, value in changed.items())
        self.dismiss(f"/sampling {words}" if changed else None)


def _about(key: str, error: Mp13Error) -> str:
    """What is wrong, without what stands in the field anyway."""
    return str(error).partition("cannot be used; ")[2] or str(error).removeprefix(f"{key} = ")
