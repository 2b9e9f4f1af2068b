"""The form of `/train`: what to learn from and how, checked as it is typed, with the first samples under it. It gives
the command that starts the run."""

from __future__ import annotations

import asyncio
import shlex
from itertools import islice
from pathlib import Path

from textual import on
from textual.content import Content
from textual.suggester import Suggester
from textual.widgets import Input, Static

from mp13.chat.conversation.training_order import check_setting, question_of
from mp13.chat.library.stored_data import STORE, data_set
from mp13.chat.text import one_line
from mp13.chat.tui.screens.form import Form, FormField
from mp13.engine.training.config import KINDS
from mp13.engine.training.sample import Sample
from mp13.errors import Mp13Error
from mp13.library.paths import given_path
from mp13.library.placing import check_new_name

_SETTINGS = {
    "kind": ", ".join(KINDS),
    "rank": "by the data's size",
    "steps": "as many as the passes take",
    "epochs": "by the number of samples",
    "lr": "by the model's width",
    "seed": "0",
}
_PREVIEWED = 3


class TrainScreen(Form):
    TITLE_TEXT = "Train an adapter"
    WORDS = {"keep": "next, at last train", "close": "leave"}

    def fields(self) -> list[FormField]:
        data = FormField("data", "", "a .jsonl, .json, .csv; store:all")
        data.input.suggester = _Files()
        data.add_class("-long")
        prompt = FormField("prompt", "", "asked with each version; else the data's")
        prompt.add_class("-long")
        return [data, FormField("name", "", "the file's"), *(FormField(k, "", v) for k, v in _SETTINGS.items()), prompt]

    def on_mount(self) -> None:
        self.tell("What is left empty is chosen by model and data.")

    @property
    def _values(self) -> dict[str, str]:
        return {field.key: field.input.value.strip() for field in self._fields}

    @on(Input.Changed)
    def _check(self) -> None:
        values = self._values
        for field in self._fields:
            field.complain(_problem(field.key, values[field.key]))
        self.run_worker(self._preview(values["data"]), exclusive=True, group="preview")

    async def _preview(self, source: str) -> None:
        try:
            samples = await asyncio.to_thread(_first, source)
        except Mp13Error as error:
            self.tell(str(error), is_wrong=True)
            return
        if samples:
            self.query_one(".about", Static).update(_shown(samples))
            self.query_one(".about").set_class(False, "-wrong")

    def keep(self) -> None:
        """Go to the first field that is wrong; where there is none, train."""
        values = self._values
        for field in self._fields:
            problem = _problem(field.key, values[field.key])
            if problem or (field.key == "data" and not values["data"]):
                field.complain(problem or "is needed")
                field.input.focus()
                return
        settings = [f"{key}={values[key]}" for key in (*_SETTINGS, "prompt") if values[key]]
        words = [values["data"], *([values["name"]] if values["name"] else []), *settings]
        self.dismiss(f"/train {shlex.join(words)}")


class _Files(Suggester):
    """Completes a path, the first by name."""

    def __init__(self) -> None:
        super().__init__(use_cache=False, case_sensitive=True)

    async def get_suggestion(self, value: str) -> str | None:
        folder, slash, begun = value.rpartition("/")
        try:
            entries = sorted(Path(folder + slash or ".").expanduser().iterdir())
        except (OSError, RuntimeError, ValueError):  # RuntimeError: there is no such user's home
            return None
        names = (entry.name + "/" * entry.is_dir() for entry in entries if not entry.name.startswith("."))
        found = next((name for name in names if begun and name.startswith(begun)), None)
        return None if found is None else f"{folder}{slash}{found}"


def _problem(key: str, value: str) -> str:
    """What is wrong with the value; "" where nothing is, or nothing stands there."""
    if not value or key in ("data", "prompt"):
        return ""
    try:
        if key == "name":
            check_new_name(value)
        else:
            check_setting(key, value)
    except Mp13Error as error:
        return str(error).partition("cannot be used; ")[2] or str(error)
    return ""


def _first(source: str) -> list[Sample]:
    """The first samples of a source that is there already. Raises Mp13Error for one that cannot be read."""
    if not source or not (source.startswith(STORE) or given_path(source).is_file()):
        return []
    placed = source if source.startswith(STORE) else str(given_path(source))
    return list(islice(data_set(placed, None).samples(), _PREVIEWED))


def _shown(samples: list[Sample]) -> Content:
    """Question and answer a line; what is learned is in colour."""
    lines: list[Content] = []
    for sample in samples:
        learned = next((m.content for m in sample.messages if m.role == "assistant" and m.is_learned), sample.text)
        asked = one_line(question_of(sample))
        lines.append(Content.assemble((f"{asked}  ", "$foreground 60%"), (one_line(learned), "$text-success")))
    return Content("\n").join(lines)
