"""A list of rows that are redrawn in place, and the lines of such rows, fitted to the width there is."""

from collections.abc import Sequence

from textual.content import Content
from textual.widgets import OptionList
from textual.widgets.option_list import Option

MUTED, FAINT = "$foreground 60%", "$foreground 40%"


class Rows(OptionList):
    """Its mark stays on the row that it was on; where that has gone, on the one that took its place."""

    def __init__(self) -> None:
        super().__init__(markup=False, compact=True)
        self._shown: list[tuple[str, Content]] = []

    def show(self, rows: Sequence[tuple[str, Content]]) -> None:
        """`rows` are ids and what to draw."""
        marked, place = self.marked, self.highlighted or 0
        before, self._shown = self._shown, list(rows)
        if [id for id, _ in before] == [id for id, _ in rows]:
            for index, (old, (_, new)) in enumerate(zip(before, rows, strict=True)):
                if old[1] != new:
                    self.replace_option_prompt_at_index(index, new)
            return
        self.set_options(Option(content, id) for id, content in rows)
        self.mark(marked, place)

    def mark(self, id: str | None, place: int = 0) -> None:
        """Mark the row `id`; where there is none, the one at `place`."""
        ids = [id for id, _ in self._shown]
        self.highlighted = None if not ids else ids.index(id) if id in ids else min(place, len(ids) - 1)

    @property
    def marked(self) -> str | None:
        return None if self.highlighted is None else self._shown[self.highlighted][0]

    def line_of(self, id: str) -> int:
        """On which line of the list, as it is scrolled, the row begins. Rows don't wrap."""
        ids = [id for id, _ in self._shown]
        return sum(content.plain.count("\n") + 1 for _, content in self._shown[: ids.index(id)]) - self.scroll_offset.y


def spread(left: Content, right: Content, width: int) -> Content:
    """One line of `width` cells: `right` at its end, and as much of `left` as there is room for."""
    room = max(width - right.cell_length - 1, 0)
    left = left.truncate(room, ellipsis=True)
    return Content.assemble(left, " " * max(width - left.cell_length - right.cell_length, 0), right)
