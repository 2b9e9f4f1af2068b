"""A folder of the reader's own adapters, beside those of the data folder; what is in both is shown as it is typed."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path

from textual import on
from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.content import Content
from textual.widgets import Input, Static

from mp13.chat.library.shown import size
from mp13.chat.text import printable
from mp13.chat.wizard.background import in_background
from mp13.chat.wizard.step import Step
from mp13.library.adapters import AdapterOnDisk, available_adapters
from mp13.library.paths import adapters_dir

_PAUSE_S = 0.2  # after the last key, before the disk is read


class AdaptersStep(Step):
    NAME = "Adapters"
    HEADING = "Where are your adapters?"
    HINT = "A folder with adapters in it, as PEFT saves them. Empty: only those that `mp13 adapters add` brings in."

    def compose(self) -> ComposeResult:
        now = self.state.draft.settings.adapters_folder
        yield Input(str(now) if now else "", placeholder="none; or ~/my-adapters", compact=True, id="folder")
        with VerticalScroll(id="found", can_focus=False):
            yield Static(id="adapters", markup=False)

    def on_mount(self) -> None:
        self._look()

    @on(Input.Changed)
    def _look(self) -> None:
        self.run_worker(self._list(self._folder()), exclusive=True)

    async def _list(self, folder: Path | None) -> None:
        await asyncio.sleep(_PAUSE_S)
        shown = self.query_one("#adapters", Static)
        if folder is not None and not folder.expanduser().is_dir():
            shown.update(Content.styled(f"There is no folder {printable(str(folder))} yet.", "$text-warning"))
            return
        folders = [*([folder.expanduser()] if folder else []), adapters_dir()]
        shown.update(_list_of(await in_background(partial(available_adapters, folders)), folders))

    def _folder(self) -> Path | None:
        text = self.query_one(Input).value.strip()
        return Path(text) if text and text.lower() != "none" else None

    @on(Input.Submitted)
    def _entered(self) -> None:
        self.post_message(self.Done())

    async def accept(self) -> None:
        folder = self._folder()
        self.state.draft.choose(adapters_folder=None if folder is None else str(folder))


def _list_of(found: list[AdapterOnDisk], folders: list[Path]) -> Content:
    if not found:
        return Content(printable(f"No adapters in {' or '.join(map(str, folders))} yet."))
    width = max(len(adapter.name) for adapter in found)
    lines = [_line(adapter, width) for adapter in found]
    return Content("\n").join([Content(f"{len(found)} adapter{'s' if len(found) > 1 else ''}:"), *lines])


def _line(adapter: AdapterOnDisk, width: int) -> Content:
    name = (printable(adapter.name).ljust(width), "bold")
    if adapter.unfit:
        return Content.assemble("  ", name, "  ", (printable(adapter.unfit), "$text-error"))
    about = f"{adapter.kind}, {size(adapter.size_bytes)}, {adapter.path.parent}"
    return Content.assemble("  ", name, "  ", (printable(about), "$foreground 60%"))
