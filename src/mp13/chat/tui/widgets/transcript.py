"""The conversation, scrolled. Only a window of its rows is on the screen; it moves as the reader scrolls to its edges.

It sticks to the bottom while the reader is there, and stays where it is when not.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import takewhile

from textual.app import ComposeResult
from textual.containers import Vertical, VerticalScroll

from mp13.chat.tui.widgets.columns import Columns
from mp13.chat.tui.widgets.turns import Row
from mp13.chat.tui.widgets.welcome import Welcome

PAGE = 16  # rows that come at once
LIMIT = 40  # rows in the window, more on a very tall screen: every key and flush lays all of them out

Drawn = Row | Columns
Drawing = Callable[[], Drawn]


class Transcript(VerticalScroll, can_focus=False):
    def __init__(self) -> None:
        super().__init__()
        self._above: list[Drawing] = []
        self._below: list[Drawing] = []
        self._is_shifting = False
        self._page = Vertical(id="rows")
        self.welcome = Welcome()

    def compose(self) -> ComposeResult:
        yield self.welcome
        yield self._page

    def on_mount(self) -> None:
        self.anchor()

    @property
    def rows(self) -> list[Drawn]:
        """What is on the screen, oldest first."""
        return [child for child in self._page.children if isinstance(child, Row | Columns)]

    @property
    def _limit(self) -> int:
        return max(LIMIT, self.size.height)  # a row has two lines at least, so this is more than a screenful

    async def show(self, rows: list[Drawing], at: int | None = None) -> None:
        """Draw the end of `rows`, or what is around the one at `at`, in place of everything."""
        end = len(rows) if at is None else min(at + PAGE // 2, len(rows))
        begin = max(end - PAGE, 0)
        self._above, self._below = rows[:begin], rows[end:]
        with self.app.batch_update():
            await self._page.remove_children()
            await self._page.mount_all([row() for row in rows[begin:end]])
        self.set_class(bool(rows), "-talking")
        if at is None:
            self.anchor()
            self.call_after_refresh(self._fill)
        else:
            self._is_shifting = True
            self.release_anchor()
            self.call_after_refresh(self._settle, self.rows[at - begin], False)

    async def add(self, row: Drawn, after: Drawn | None = None) -> None:
        """Draw `row` under `after` where that is on the screen, else at the end."""
        if self._below:
            await self.show([*self._above, *(row.again for row in self.rows), *self._below])
        self.add_class("-talking")
        await self._page.mount(row, after=after if after in self._page.children else None)
        if len(self.rows) > self._limit and self.is_vertical_scroll_end:
            await self._trim_top(PAGE)
            self.call_after_refresh(self._fill)

    async def drop(self, row: Drawn) -> None:
        """Take `row` off the screen for good."""
        if row in self._page.children:
            await row.remove()

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        super().watch_scroll_y(old_value, new_value)
        if not self._is_shifting and old_value != new_value:
            if new_value <= 0 and self._above:
                self._is_shifting = True
                self.call_later(self._shift_up)
            elif new_value >= self.max_scroll_y and self._below:
                self._is_shifting = True
                self.call_later(self._shift_down)

    async def page_up(self) -> bool:
        """Have older rows above; whether there were any."""
        if self._is_shifting or not self._above:
            return False
        self._is_shifting = True
        await self._shift_up()
        return True

    async def page_down(self) -> bool:
        """Have newer rows below; whether there were any."""
        if self._is_shifting or not self._below:
            return False
        self._is_shifting = True
        await self._shift_down()
        return True

    async def _shift_up(self) -> None:
        """Put a page of older rows above, and let go of what is now far below."""
        page, self._above = self._above[-PAGE:], self._above[:-PAGE]
        top = self.rows[0]
        with self.app.batch_update():
            await self._page.mount_all([row() for row in page], before=top)
            far = self.rows[self._limit :]
            if all(row.is_settled for row in far):
                self._below = [row.again for row in far] + self._below
                await self._page.remove_children(far)
        self.call_after_refresh(self._settle, top, True)

    async def _shift_down(self) -> None:
        page, self._below = self._below[:PAGE], self._below[PAGE:]
        bottom = self.rows[-1]
        with self.app.batch_update():
            await self._page.mount_all([row() for row in page])
            await self._trim_top(self._limit)
        self.call_after_refresh(self._settle, bottom, False)

    async def _trim_top(self, keep: int) -> None:
        rows = list(takewhile(lambda row: row.is_settled, self.rows[:-keep]))
        self._above += [row.again for row in rows]
        with self.app.batch_update():
            await self._page.remove_children(rows)

    def _settle(self, row: Drawn, at_top: bool) -> None:
        """The window has moved: what the reader was looking at is back at its edge."""
        self.scroll_to_widget(row, animate=False, top=at_top)
        self._is_shifting = False

    async def _fill(self) -> None:
        """A tall screen has room for more than a page."""
        if self._above and self.max_scroll_y == 0 and not self._is_shifting:
            self._is_shifting = True
            await self._shift_up()
            self.anchor()
            self.call_after_refresh(self._fill)
