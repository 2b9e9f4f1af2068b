"""The test: an engine with these settings answers a prompt on the screen, or the screen says why it does not."""

from __future__ import annotations

from contextlib import aclosing

from textual import on
from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.content import Content
from textual.message import Message
from textual.widgets import Input, Static

from mp13.chat.conversation.turn import AnswerDone, EngineFailed, EngineReady, LoadProgress, SessionEvent, TextDelta
from mp13.chat.text import printable
from mp13.chat.wizard.state import State
from mp13.chat.wizard.step import Busy, Step
from mp13.chat.wizard.trying import PROMPT, trial
from mp13.errors import Mp13Error


class TrialStep(Step):
    NAME = "Test"
    HEADING = "Does it answer?"
    FOCUS = "#answer-area"
    HINT = "An engine starts with what you chose and answers this. Change the prompt and press Enter to ask again."

    class Answered(Message):
        """The engine has answered."""

    def __init__(self, state: State) -> None:
        super().__init__(state)
        self._text = ""

    def compose(self) -> ComposeResult:
        yield Input(PROMPT, compact=True, id="prompt")
        yield Busy("starting the engine", id="engine")
        with VerticalScroll(id="answer-area"):
            yield Static(id="answer", markup=False)
            yield Static(id="verdict", markup=False)

    def on_mount(self) -> None:
        self._ask()

    @on(Input.Submitted)
    def _asked_again(self) -> None:
        self.query_one("#answer-area").focus()
        self._ask()

    def _ask(self) -> None:
        self.state.answered = None
        self._text = ""
        self.query_one("#answer").display = False
        self.query_one("#verdict", Static).update("")
        self.query_one("#engine", Busy).show("starting the engine")
        self.run_worker(self._try(self.query_one(Input).value), exclusive=True, name="trial")

    async def _try(self, prompt: str) -> None:
        settings = self.state.draft.settings
        try:
            async with aclosing(trial(settings, prompt, self.state.world.connect)) as events:
                async for event in events:
                    self._show(event)
                    if isinstance(event, AnswerDone):
                        self.state.answered = settings
                        self.post_message(self.Answered())
        except Mp13Error as error:
            self._fail(error)
        self.query_one("#engine", Busy).show("")

    def _show(self, event: SessionEvent) -> None:
        busy = self.query_one("#engine", Busy)
        match event:
            case LoadProgress(stage, fraction):
                busy.show(stage if fraction is None else f"{stage}: {fraction:.0%}")
            case EngineReady(info):
                busy.show(f"answering: {info.device}, {info.dtype}, attention {info.attn_implementation}")
            case TextDelta(text):
                self._text += text
                answer = self.query_one("#answer", Static)
                answer.display = True
                answer.update(Content(printable(self._text)))
                self.query_one("#answer-area", VerticalScroll).scroll_end(animate=False)
            case AnswerDone(turn):
                speed = f" at {turn.metrics.tokens_per_s:.0f} tokens/s" if turn.metrics else ""
                self._verdict("It answers", f"{speed}. Enter goes on.", "$text-success")
            case EngineFailed():
                self._fail(event.error)

    def _fail(self, error: Mp13Error) -> None:
        self._verdict("It does not answer: ", f"{error}. Go back to change something, or ask again.", "$text-error")

    def _verdict(self, words: str, rest: str, colour: str) -> None:
        self.query_one("#verdict", Static).update(Content.assemble((words, f"bold {colour}"), printable(rest)))
