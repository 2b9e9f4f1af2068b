"""The form of a prompt template: a field for each of its variables. It gives the /template that asks it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping

from mp13.chat.settings.templates import Template
from mp13.chat.tui.screens.form import Form, FormField


class TemplateForm(Form):
    WORDS = {"keep": "next, at last ask", "close": "leave"}

    def __init__(self, template: Template, known: Mapping[str, str]) -> None:
        """`known` are values that stand there already."""
        super().__init__()
        self._template = template
        self._known = known

    @property
    def title_text(self) -> str:
        return self._template.name

    def fields(self) -> list[FormField]:
        """A value of several lines stays as it is, since a field has one."""
        return [
            FormField(name, self._known.get(name, ""))
            for name in self._template.variables
            if "\n" not in self._known.get(name, "")
        ]

    def on_mount(self) -> None:
        self.tell(self._template.text)
        if empty := self._empty:
            empty[0].input.focus()

    def keep(self) -> None:
        """Go to the next empty field; where there is none, ask."""
        if empty := self._empty:
            behind = [field for field in empty if not field.input.has_focus]
            (behind or empty)[0].input.focus()
            if not behind:
                empty[0].complain("is needed")
            return
        values = {**self._known, **{field.key: field.input.value for field in self._fields}}
        words = " ".join(shlex.quote(f"{name}={value}") for name, value in values.items())
        self.dismiss(f"/template {shlex.quote(self._template.name)} {words}".rstrip())

    @property
    def _empty(self) -> list[FormField]:
        return [field for field in self._fields if not field.input.value.strip()]
