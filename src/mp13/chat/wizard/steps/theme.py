"""The colours: each theme is tried on the whole screen as it is marked, with a piece of a conversation beside it."""

from __future__ import annotations

from textual import on
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from mp13.chat.settings.themes import THEMES
from mp13.chat.tui.palette import mix_spans, voice
from mp13.chat.wizard.step import Choices, Step


class ThemeStep(Step):
    NAME = "Theme"
    HEADING = "Which colours?"
    HINT = "The screen shows each one as you go through the list. Ctrl+T in the chat tries others on."

    def compose(self) -> ComposeResult:
        with Horizontal(id="themes"):
            yield Choices(id="names")
            with Vertical(id="preview"):
                yield Static("Tell me about the sea.", classes="question", markup=False)
                yield Static("The sea covers most of the Earth.", classes="answer base", markup=False)
                yield Static(
                    Content.assemble(*mix_spans("base"), (" · 41 tokens/s", "$foreground 60%")), classes="badge"
                )
                yield Static("Arr, the sea be a cruel mistress!", classes=f"answer {voice('pirate')}", markup=False)
                yield Static(
                    Content.assemble(*mix_spans("pirate"), (" · 38 tokens/s", "$foreground 60%")), classes="badge"
                )
                yield Static('{"name": "sea"}', classes=f"answer {voice('json')}", markup=False)
                yield Static(Content.assemble(*mix_spans("json:0.7+pirate:0.3")), classes="badge")
                yield Static("An error says what was wrong.", classes="failure", markup=False)

    def on_mount(self) -> None:
        choices = self.query_one(Choices)
        choices.add_options(Option(name, id=name) for name in THEMES)
        choices.highlighted = choices.get_option_index(self.state.draft.settings.theme)

    @on(OptionList.OptionHighlighted)
    def _try(self, event: OptionList.OptionHighlighted) -> None:
        if event.option_id is not None:
            self.app.theme = event.option_id

    @on(OptionList.OptionSelected)
    def _chosen(self) -> None:
        self.post_message(self.Done())

    async def accept(self) -> None:
        choices = self.query_one(Choices)
        if choices.highlighted is not None:
            self.state.draft.choose(theme=THEMES[choices.highlighted])

    async def close(self) -> None:
        """Who goes back keeps what was chosen before."""
        await super().close()
        self.app.theme = self.state.draft.settings.theme
