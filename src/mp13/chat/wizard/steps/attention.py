"""The attention backend: `auto`, or one of those that run here; those that do not say why."""

from __future__ import annotations

from textual import on
from textual.app import ComposeResult
from textual.widgets import OptionList
from textual.widgets.option_list import Option

from mp13.chat.wizard.step import Busy, Choices, Step, choice
from mp13.engine.config import ATTENTION_NAMES

_WIDTH = max(map(len, ATTENTION_NAMES))


class AttentionStep(Step):
    NAME = "Attention"
    HEADING = "Which attention backend?"
    HINT = "auto takes the fastest at decoding that runs with the model. Choose another to compare, or to pin it down."

    def compose(self) -> ComposeResult:
        yield Choices(id="backends")
        yield Busy("asking torch which of them run here; auto can be chosen meanwhile", id="asking")

    def on_mount(self) -> None:
        self.surveyed()

    def surveyed(self) -> None:
        choices, survey = self.query_one(Choices), self.state.survey
        marked = self._marked()
        choices.clear_options()
        for name in ATTENTION_NAMES:
            detail, why_not = self._about(name)
            choices.add_option(Option(choice(name, detail or why_not, _WIDTH), id=name, disabled=bool(why_not)))
        index = choices.get_option_index(marked or self.state.draft.settings.attn_implementation)
        choices.highlighted = 0 if choices.get_option_at_index(index).disabled else index  # the first is auto
        self.query_one("#asking", Busy).show("" if survey else "asking torch which of them run here")

    def _about(self, name: str) -> tuple[str, str]:
        """What is said of a backend, and why it cannot be chosen. What is not known can."""
        survey = self.state.survey
        if survey is None:
            return "", ""
        if name == "auto":
            return survey.attention_auto, ""
        for kernel in survey.attention:
            if kernel.name == name:
                return ("runs here", "") if kernel.runs else ("", f"{kernel.why_not}; {kernel.fix}")
        return "not known", ""

    def _marked(self) -> str | None:
        choices = self.query_one(Choices)
        return None if choices.highlighted is None else choices.get_option_at_index(choices.highlighted).id

    @on(OptionList.OptionSelected)
    def _chosen(self) -> None:
        self.post_message(self.Done())

    async def accept(self) -> None:
        self.state.draft.choose(attn_implementation=self._marked() or "auto")
