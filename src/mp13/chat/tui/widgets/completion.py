"""The list above the prompt that finishes commands and names. What to suggest is for others to say."""

from collections.abc import Callable
from dataclasses import dataclass

from rich.cells import cell_len
from textual.content import Content
from textual.widget import Widget
from textual.widgets import OptionList
from textual.widgets.option_list import Option

from mp13.chat.text import printable

_LEAST_LABEL = 14  # cells


@dataclass(frozen=True)
class Suggestion:
    """`value` would become the whole prompt; `label` and `help` are what the reader sees."""

    value: str
    label: str
    help: str = ""


class Completion(OptionList, can_focus=False):
    """Hidden while `source` has nothing to suggest for what is in the prompt, which passes it the arrow keys."""

    def __init__(self, source: Callable[[str], list[Suggestion]]) -> None:
        super().__init__(markup=False, compact=True)
        self._source = source
        self._suggestions: list[Suggestion] = []
        self.display = False

    @property
    def is_open(self) -> bool:
        return bool(self.display)

    @property
    def has_choice(self) -> bool:
        """Whether the reader has marked a suggestion with the arrow keys."""
        return self.is_open and self.highlighted is not None

    def follow(self, text: str) -> None:
        """Suggest how `text` can go on. What the reader has marked stays marked while the suggestions stay the same."""
        self.offer(self._source(text))

    def offer(self, suggestions: list[Suggestion]) -> None:
        """Suggest these, as `follow` does."""
        if suggestions != self._suggestions:
            self._show(suggestions)

    def close(self) -> None:
        """Suggest nothing until the text changes."""
        self._show([])

    def take(self) -> str | None:
        """The marked suggestion's value, else the first one's; None when there is none."""
        return self._suggestions[self.highlighted or 0].value if self._suggestions else None

    def _show(self, suggestions: list[Suggestion]) -> None:
        self._suggestions = suggestions
        self.clear_options()
        width = self._label_width()
        self.add_options(Option(_row(suggestion, width)) for suggestion in suggestions)
        self.highlighted = None
        self.display = bool(suggestions)

    def _label_width(self) -> int:
        """As wide as the longest label, but where help stands behind them it has three quarters of the row."""
        longest = max((cell_len(printable(suggestion.label)) for suggestion in self._suggestions), default=0)
        if not any(suggestion.help for suggestion in self._suggestions):
            return longest
        around = self.parent.content_size.width if isinstance(self.parent, Widget) else 0
        return min(longest, max(_LEAST_LABEL, around // 4))


def _row(suggestion: Suggestion, width: int) -> Content:
    label = Content.styled(printable(suggestion.label), "bold").truncate(width, ellipsis=True, pad=True)
    return Content.assemble(label, "  ", (printable(suggestion.help), "$foreground 60%"))
