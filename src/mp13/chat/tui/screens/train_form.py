"""The form of `/train`: what to learn from and how, checked as it is typed. Under it stand the first samples as the
model that runs would read them. It gives the command that starts the run."""

from __future__ import annotations

import asyncio
import shlex
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from textual import on
from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.suggester import Suggester
from textual.widgets import Input, Static

from mp13.chat.conversation.training_order import check_setting
from mp13.chat.library.data_view import preview_text
from mp13.chat.library.stored_data import STORE, data_set
from mp13.chat.text import printable
from mp13.chat.tui.keymap import bind
from mp13.chat.tui.screens.form import Form, FormField
from mp13.engine.training.config import KINDS, LOSSES
from mp13.engine.training.sample import Sample
from mp13.errors import Mp13Error
from mp13.library.paths import given_path
from mp13.library.placing import check_new_name
from mp13.service.training_schema import PreviewRequest

if TYPE_CHECKING:
    from mp13.chat.conversation.session import ChatSession

_SETTINGS = {
    "kind": ", ".join(KINDS),
    "rank": "by the data's size",
    "steps": "as many as the passes take",
    "epochs": "by the number of samples",
    "lr": "by the model's width",
    "seed": "0",
    "loss": ", ".join(LOSSES),
}
_PREVIEWED = 3  # samples
_LOOK_S = 0.2
_EMPTY = "What is left empty is chosen by model and data."


class TrainScreen(Form):
    TITLE_TEXT = "Train an adapter"
    WORDS = {"keep": "train", "page_down": "further samples", "close": "leave"}
    BINDINGS = [
        bind("dialog.page_up", "page(-1)", priority=True),
        bind("dialog.page_down", "page(1)", priority=True),
    ]

    def __init__(self, session: ChatSession) -> None:
        super().__init__()
        self._session = session
        self._previewed = ("", "")  # data and loss

    def fields(self) -> list[FormField]:
        data = FormField("data", "", "a file, or store:all")
        data.input.suggester = _Files()
        data.add_class("-long")
        prompt = FormField("prompt", "", "else the data's first")
        prompt.add_class("-long")
        return [data, FormField("name", "", "the file's"), *(FormField(k, "", v) for k, v in _SETTINGS.items()), prompt]

    def below(self) -> ComposeResult:
        with VerticalScroll(can_focus=False, classes="preview"):
            yield from super().below()

    def on_mount(self) -> None:
        self.tell(_EMPTY)

    @property
    def _values(self) -> dict[str, str]:
        return {field.key: field.input.value.strip() for field in self._fields}

    @on(Input.Changed)
    def _check(self) -> None:
        values = self._values
        for field in self._fields:
            field.complain(_problem(field.key, values[field.key]))
        shown = values["data"], values["loss"] if values["loss"] in LOSSES else LOSSES[0]
        if shown != self._previewed:
            self._previewed = shown
            self.run_worker(self._preview(*shown), exclusive=True, group="preview")

    async def _preview(self, source: str, loss: str) -> None:
        try:
            if not (samples := await asyncio.to_thread(_first, source)):
                self.tell(_EMPTY)
                return
            while self._session.engine is None:
                self.tell("The first samples are shown as soon as the engine is up.")
                await asyncio.sleep(_LOOK_S)
            request = PreviewRequest.model_validate({"samples": samples, "loss": loss})
            report = await self._session.training.preview(request)
        except Mp13Error as error:
            self.tell(str(error), is_wrong=True)
            return
        if report.problems:
            problem = report.problems[0]
            self.tell(f"{samples[problem.sample].place}: {problem.sentence}", is_wrong=True)
            return
        text = preview_text(samples, report.samples, plain=self.app.no_color)
        about = self.query_one(".about", Static)
        about.update(text.append("".join(f"\n{printable(note)}" for note in report.notes)))
        about.set_class(False, "-wrong")
        self.query_one(".preview").scroll_home(animate=False)

    def action_page(self, pages: int) -> None:
        preview = self.query_one(".preview", VerticalScroll)
        (preview.scroll_page_up if pages < 0 else preview.scroll_page_down)(animate=False)

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
