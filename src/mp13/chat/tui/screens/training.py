"""How the training of an adapter goes: curves, speed, and the fixed prompts' answers beside the base's. The run goes on
when this is closed; its keys are `/train`'s verbs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text
from textual.app import ComposeResult
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.widgets import Static

from mp13.chat.library.shown import size
from mp13.chat.library.train_view import duration
from mp13.chat.text import one_line
from mp13.chat.tui.keymap import bind, key_label
from mp13.chat.tui.screens.dialog import Dialog
from mp13.chat.tui.widgets.curve import curve
from mp13.errors import Mp13Error

if TYPE_CHECKING:
    from mp13.chat.conversation.session import ChatSession
    from mp13.chat.conversation.training_state import TrainingState

_LOOK_S = 0.5
_SURE_S = 5.0  # how long a second press cancels
_LOWEST, _TALLEST = 6, 14  # lines of the curves


class TrainingScreen(Dialog[None]):
    BINDINGS = [
        bind("training.pause", "pause", "Pause"),
        bind("training.stop", "do('/train stop')", "Stop and keep"),
        bind("training.cancel", "cancel", "Cancel"),
        bind("training.leave", "dismiss", "Chat"),
        bind("training.page_up", "page(-1)"),
        bind("training.page_down", "page(1)"),
    ]

    def __init__(self, session: ChatSession) -> None:
        super().__init__()
        self._session = session
        self._may_cancel = False

    def compose(self) -> ComposeResult:
        with Vertical(id="training", classes="dialog"):
            yield Static(markup=False, classes="figures")
            yield Static(markup=False, classes="curves")
            with VerticalScroll(can_focus=False):
                yield Static(classes="samples")
            yield Static(markup=False, classes="about")

    def on_mount(self) -> None:
        self.set_interval(_LOOK_S, self.draw)
        self.call_after_refresh(self.draw)

    def on_resize(self) -> None:
        self.call_after_refresh(self.draw)

    def draw(self) -> None:
        if (state := self._session.training.state) is None:
            return
        dialog = self.query_one("#training")
        whose = ", begun by another chat" if state.is_of_another else ""
        dialog.border_title = Content(one_line(f"Training {state.name}{whose}"))
        dialog.border_subtitle = self._hints(state)
        self.query_one(".figures", Static).update(Content(figures(state)))
        self.query_one(".curves", Static).update(Content("\n".join(self._curves(state))))
        self.query_one(".samples", Static).update(_samples(state))
        if not self._may_cancel:
            self._say(state.sentence or (state.notes[-1] if state.notes else ""))

    def _hints(self, state: TrainingState) -> str:
        verbs = {"pause": "go on" if state.phase == "paused" else "pause", "stop": "stop and keep", "cancel": "cancel"}
        words = (verbs if self._session.training.is_on else {}) | {"leave": "back to the chat"}
        return " · ".join(f"{key_label(self, f'training.{name}')} {word}" for name, word in words.items())

    def _curves(self, state: TrainingState) -> list[str]:
        width = self.query_one(".curves").content_size.width
        height = min(max(self.size.height // 2 - 3, _LOWEST), _TALLEST)
        losses = [(step, loss) for step, loss, _ in state.losses]
        if not state.evals:
            return curve(losses, "loss", width, height)
        half = (width - 2) // 2
        left, right = curve(losses, "loss", half, height), curve(state.evals, "eval loss", half, height)
        return [f"{a}  {b}" for a, b in zip(left, right, strict=True)]

    def _say(self, text: str) -> None:
        self.query_one(".about", Static).update(Content(one_line(text)))

    async def action_pause(self) -> None:
        state = self._session.training.state
        await self.action_do("/train go on" if state is not None and state.phase == "paused" else "/train pause")

    async def action_cancel(self) -> None:
        """The first press asks, the second does it."""
        if self._may_cancel:
            await self.action_do("/train cancel")
        elif self._session.training.is_on:
            self._may_cancel = True
            self._say(f"{key_label(self, 'training.cancel')} again cancels it: what it has saved goes.")
            self.set_timer(_SURE_S, self._forget_cancel)

    def action_page(self, pages: int) -> None:
        answers = self.query_one(VerticalScroll)
        (answers.scroll_page_up if pages < 0 else answers.scroll_page_down)(animate=False)

    def _forget_cancel(self) -> None:
        self._may_cancel = False
        self.draw()

    async def action_do(self, line: str) -> None:
        self._may_cancel = False
        try:
            await self._session.command(line)
        except Mp13Error as error:
            self.notify(one_line(str(error)), severity="warning", markup=False)
        self.draw()


def figures(state: TrainingState) -> str:
    """One line; what is known of it."""
    how = state.reason or state.phase
    parts = [f"{how}, step {state.step:,} of {state.total_steps:,}" if state.total_steps else how]
    parts += [] if state.loss is None else [f"loss {state.loss:.4f}", f"lr {state.losses[-1][2]:.1e}"]
    parts += [] if state.tokens_per_s is None else [f"{state.tokens_per_s:,.0f} tok/s"]
    parts += [] if state.memory_bytes is None else [size(state.memory_bytes)]
    is_going = state.phase in ("running", "paused") and state.seconds_left is not None
    return " · ".join(parts + ([f"{duration(state.seconds_left or 0)} left"] if is_going else []))


def _samples(state: TrainingState) -> Table:
    """Each prompt over its two answers, side by side."""
    table = Table.grid(padding=(0, 2), expand=True)
    table.add_column(ratio=1, overflow="fold")
    table.add_column(ratio=1, overflow="fold")
    for sample in state.samples:
        step = f"{state.name}@{sample.step}" if sample.step else f"{state.name}, as soon as it has a version"
        table.add_row(Text(one_line(f"> {sample.prompt}"), "bold"), "")
        table.add_row(Text("base", "dim"), Text(one_line(step), "dim"))
        table.add_row(Text(one_line(sample.base)), Text(one_line(sample.learned)))
        table.add_row()
    return table
