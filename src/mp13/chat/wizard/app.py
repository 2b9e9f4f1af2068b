"""The wizard on a terminal: eight steps, one at a time, back and forth. What each asks is its own (steps/); the way
through them, leaving, and the line for what is wrong are here. It asks torch about the machine meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from textual import on
from textual.app import App, ComposeResult
from textual.binding import Binding
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.filter import LineFilter
from textual.message import Message
from textual.screen import Screen
from textual.widgets import Button, Static
from textual.worker import Worker

from mp13.chat.settings.user_file import Written
from mp13.chat.text import printable
from mp13.chat.tui.gate import Gate
from mp13.chat.tui.palette import voice_variables
from mp13.chat.tui.themes import OWN_THEMES
from mp13.chat.wizard.leaving import Question, QuestionDialog
from mp13.chat.wizard.state import State
from mp13.chat.wizard.step import Step
from mp13.chat.wizard.steps.adapters import AdaptersStep
from mp13.chat.wizard.steps.attention import AttentionStep
from mp13.chat.wizard.steps.finish import FinishStep
from mp13.chat.wizard.steps.machine import MachineStep
from mp13.chat.wizard.steps.memory import MemoryStep
from mp13.chat.wizard.steps.model import ModelStep
from mp13.chat.wizard.steps.theme import ThemeStep
from mp13.chat.wizard.steps.trial import TrialStep
from mp13.errors import Mp13Error

STEPS: tuple[type[Step], ...] = (
    MachineStep, ModelStep, MemoryStep, AttentionStep, AdaptersStep, ThemeStep, TrialStep, FinishStep,
)  # fmt: skip
LEAVE = Question(
    "Leave the wizard?", "Nothing has been written, and what you chose here would be forgotten.", yes="Leave", no="Stay"
)
UNTRIED = Question(
    "Go on without an answer?",
    "The engine has not answered with these settings, so the chat may not start with them.",
    yes="Go on",
    no="Stay",
)


class Mark(Static):
    """A step in the trail; a click goes back to it."""

    class Clicked(Message):
        def __init__(self, index: int) -> None:
            super().__init__()
            self.index = index

    def __init__(self, index: int, name: str) -> None:
        super().__init__(name, classes="trail", markup=False)
        self.index = index

    def on_click(self) -> None:
        self.post_message(self.Clicked(self.index))


class Wizard(App[Written]):
    """Exits with what was written, or None."""

    TITLE = "mp13config"
    CSS_PATH = "styles.tcss"
    ENABLE_COMMAND_PALETTE = False
    BINDINGS = [
        Binding("enter,ctrl+n", "next", "Next"),
        Binding("ctrl+p", "back", "Back"),
        Binding("escape", "leave", "Leave"),
        Binding("ctrl+q,ctrl+c", "leave", "Leave", priority=True, show=False),
    ]

    def __init__(self, state: State) -> None:
        super().__init__()
        for theme in OWN_THEMES:
            self.register_theme(theme)
        self.state = state
        self._gate = Gate()
        self.theme = state.draft.settings.theme
        self._index = 0
        self._moving: Worker[Any] | None = None

    def compose(self) -> ComposeResult:
        with Vertical(id="page"):
            with Horizontal(id="trail"):
                for index, step in enumerate(STEPS):
                    yield Mark(index, step.NAME)
            yield Static(id="heading", markup=False)
            yield Static(id="hint", markup=False)
            yield Vertical(id="stage")
            yield Static(id="problem", markup=False)
            with Horizontal(id="buttons"):
                yield Button("‹ Back", id="back", compact=True)
                yield Button("Next ›", id="next", variant="primary", compact=True)
                yield Static("Enter next · Ctrl+P back · Esc leave", id="keys", markup=False)
                yield Button("Leave", id="leave", compact=True)

    def get_theme_variable_defaults(self) -> dict[str, str]:
        return voice_variables(self.current_theme.dark)

    def get_line_filters(self) -> Sequence[LineFilter]:
        return [*super().get_line_filters(), self._gate]

    async def on_mount(self) -> None:
        self.run_worker(self._survey(), name="survey")
        await self._begin(0)

    @property
    def _steps(self) -> Screen[None]:
        """The screen of the steps, be there a question over it or not."""
        return self.screen_stack[0]

    @property
    def step(self) -> Step:
        return self._steps.query_one("#stage > Step", Step)

    async def _survey(self) -> None:
        self.state.survey = await self.state.world.survey(self.state.draft.settings.block_size)
        for step in self._steps.query(Step):
            if step.is_mounted:  # else it looks by itself when it is
                step.surveyed()

    async def _begin(self, index: int) -> None:
        self._index = index
        self._complain("")
        stage = self._steps.query_one("#stage", Vertical)
        await stage.remove_children()
        step = STEPS[index](self.state)
        self._title(step.HEADING, step.HINT)
        await stage.mount(step)
        for mark in self._steps.query(Mark):
            mark.set_class(mark.index < index, "-done")
            mark.set_class(mark.index == index, "-here")
        self._steps.query_one("#back", Button).disabled = index == 0
        self._steps.query_one("#next", Button).label = f"{step.NEXT} ›"
        self.set_focus(next((w for w in step.query(step.FOCUS) if w.focusable), self._steps.query_one("#next", Button)))

    def action_next(self) -> None:
        if self.written:
            self.exit(self.written)
        elif self._moving is None or self._moving.is_finished:
            self._moving = self.run_worker(self._advance(), group="moving")

    async def action_back(self) -> None:
        if self._index and not self.written:
            self._go(self._index - 1)

    @on(Mark.Clicked)
    def _go_back_to(self, event: Mark.Clicked) -> None:
        if event.index < self._index and not self.written:
            self._go(event.index)

    def _go(self, index: int) -> None:
        """Leave this step as it was, whatever it waits for."""
        self.workers.cancel_group(self, "moving")
        self._moving = self.run_worker(self._retreat(index), group="moving")

    def action_leave(self) -> None:
        if self.written:
            self.action_next()
        elif isinstance(self.screen, QuestionDialog):  # asked twice
            self.exit()
        else:
            self.push_screen(QuestionDialog(LEAVE), self._left)

    def _left(self, leaves: bool | None) -> None:
        if leaves:
            self.exit()

    @property
    def written(self) -> Written | None:
        """What was written, once it is."""
        return self.step.written if isinstance(self.step, FinishStep) else None

    async def _advance(self) -> None:
        step = self.step
        self._complain("")
        try:
            await step.accept()
        except Mp13Error as error:
            self._complain(str(error))
            return
        if isinstance(step, FinishStep):
            self._title(step.DONE)
            self._steps.query_one("#next", Button).label = "Done"
            for gone in ("#back", "#keys", "#leave"):
                self._steps.query_one(gone).visible = False
            return
        untried = isinstance(step, TrialStep) and self.state.answered is None
        if untried and not await self.push_screen_wait(QuestionDialog(UNTRIED)):
            return
        await step.close()
        await self._begin(self._index + 1)

    async def _retreat(self, index: int) -> None:
        for step in self._steps.query(Step):
            await step.close()
        await self._begin(index)

    def _title(self, heading: str, hint: str = "") -> None:
        self._steps.query_one("#heading", Static).update(heading)
        self._steps.query_one("#hint", Static).update(hint)

    def _complain(self, sentence: str) -> None:
        problem = self._steps.query_one("#problem", Static)
        problem.update(Content(printable(sentence[:1].upper() + sentence[1:])))
        problem.display = bool(sentence)

    @on(Step.Done)
    def _chosen(self) -> None:
        self.action_next()

    @on(TrialStep.Answered)
    def _spare_the_question(self) -> None:
        """Whether to go on without an answer need not be asked any more."""
        if isinstance(self.screen, QuestionDialog) and self.screen.question is UNTRIED:
            self.screen.dismiss(False)

    @on(Button.Pressed)
    async def _pressed(self, event: Button.Pressed) -> None:
        await self.run_action(event.button.id or "")


def run() -> Written | None:
    """Ask until the reader has written the file or left; what was written, None when nothing was.

    Raises:
        ConfigError: the configuration file is there and cannot be read at all.
    """
    return Wizard(State()).run()
