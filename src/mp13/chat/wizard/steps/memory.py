"""Will it fit? A table of quantizations and contexts with what each would take of the memory that is free."""

from __future__ import annotations

from functools import partial

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.content import Content
from textual.coordinate import Coordinate
from textual.widgets import DataTable, Static

from mp13.chat.library.shown import size
from mp13.chat.text import printable
from mp13.chat.wizard.background import in_background
from mp13.chat.wizard.grid import Cell, Grid, chosen_cell, fit_grid
from mp13.chat.wizard.state import State
from mp13.chat.wizard.step import Busy, Step
from mp13.engine.config import EngineConfig
from mp13.errors import ConfigError, Mp13Error
from mp13.library.machine import Room, Survey, room_here

LONGEST = "longest"


class MemoryStep(Step):
    NAME = "Memory"
    HEADING = "Will it fit?"
    HINT = "Rows: how weights are kept. Columns: tokens of context. Cells: memory in all. Arrows move, Enter takes."

    def __init__(self, state: State) -> None:
        super().__init__(state)
        self._grid: Grid | None = None

    def compose(self) -> ComposeResult:
        yield Static(id="room", markup=False)
        yield Static(id="sum", markup=False)
        yield Busy(id="reckoning")

    def on_mount(self) -> None:
        self.surveyed()

    def surveyed(self) -> None:
        if self.state.survey is None:
            self.query_one("#reckoning", Busy).show("waiting for torch, to know of GPUs and what is free of them")
            return
        self.run_worker(self._reckon(self.state.survey), exclusive=True)

    async def _reckon(self, survey: Survey) -> None:
        config, busy = self.state.draft.settings.engine_config(), self.query_one("#reckoning", Busy)
        busy.show("measuring the model")
        try:
            if config.model not in self.state.measured:
                self.state.measured[config.model] = await in_background(partial(self.state.world.measure, config.model))
            room = _room(self.state, survey, config)
            self._grid = fit_grid(self.state.measured[config.model], config, room, survey.quantization)
        except Mp13Error as error:
            self.query_one("#sum", Static).update(
                Content(printable(f"This cannot be reckoned: {error}. Go on; the test at the end will tell."))
            )
        else:
            await self._show(self._grid, room, survey, config)
        busy.show("")

    async def _show(self, grid: Grid, room: Room, survey: Survey, config: EngineConfig) -> None:
        self.query_one("#room", Static).update(Content(_room_sentence(room, survey, config, grid.saved)))
        table = DataTable[Text](id="grid", cursor_type="cell")
        lengths = (LONGEST if length is None else f"{length:,}" for length in grid.contexts)
        table.add_columns(Text("context"), *(Text(f"{length:>8}", justify="right") for length in lengths))
        for name in grid.quantizations:
            cells = [grid.cells[name, length] for length in grid.contexts]
            table.add_row(Text(printable(name), "bold"), *map(_cell, cells))
        await self.mount(table, before="#sum")
        row, column = chosen_cell(grid, config)
        table.cursor_coordinate = Coordinate(row, column + 1)
        table.focus()
        self._explain()

    @on(DataTable.CellHighlighted)
    def _explain(self) -> None:
        if (cell := self._marked()) is not None:
            self.query_one("#sum", Static).update(_sum(cell))

    @on(DataTable.CellSelected)
    def _chosen(self) -> None:
        self.post_message(self.Done())

    def _marked(self) -> Cell | None:
        """The names of the rows, in the first column, mean the longest context."""
        if self._grid is None:
            return None
        row, column = self.query_one(DataTable).cursor_coordinate
        return self._grid.cells[self._grid.quantizations[row], self._grid.contexts[column - 1]]

    async def accept(self) -> None:
        if (cell := self._marked()) is None:
            return
        if cell.why_not:
            raise ConfigError(f"this does not fit: {cell.why_not}; choose another cell, or go back to a smaller model")
        self.state.draft.choose(quantization=cell.quantization, max_model_len=cell.context)


def _room(state: State, survey: Survey, config: EngineConfig) -> Room:
    index = int(config.device.partition(":")[2] or 0)
    share = config.gpu_memory_utilization
    return room_here(state.world.computer(), survey, share, on_cpu=config.device == "cpu", gpu=index)


def _room_sentence(room: Room, survey: Survey, config: EngineConfig, saved: str | None) -> str:
    if room.on_gpu:
        share = config.gpu_memory_utilization
        text = f"{size(int(room.memory * share))} are left for it: {share:.0%} of the GPU, less what others hold."
    else:
        text = f"{size(room.memory)} of main memory are left for it; torch itself takes {size(survey.program_bytes)}."
    return f"{text} The weights are saved as {printable(saved)} already." if saved else text


def _cell(cell: Cell) -> Text:
    return Text(cell.short, "dim" if cell.why_not else "", justify="right")


def _sum(cell: Cell) -> Content:
    if cell.why_not:
        return Content.assemble(("Does not fit: ", "bold $text-error"), printable(cell.why_not), ".")
    long = f"{cell.context:,} tokens" if cell.context else f"as long as fits: {cell.fit.longest:,} tokens"
    how = f"\n{cell.quantization}: {printable(cell.how)}." if cell.how else ""
    text = f"{cell.sentence} of {size(cell.room.memory)}; {long}."
    return Content.assemble(("Fits: ", "bold $text-success"), text, (how, "$foreground 60%"))
