"""The three regions: conversations at the left, the conversation, adapters at the right.

A panel has its own column where there is room; on a narrow screen it folds away, and is drawn over the conversation
while it is used. What the reader chose holds as long as the chat runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual import events
from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.widget import Widget

from mp13.chat.tui.widgets.adapters import AdaptersPanel
from mp13.chat.tui.widgets.conversations import ConversationsPanel
from mp13.chat.tui.widgets.panel import Panel

if TYPE_CHECKING:
    from mp13.chat.conversation.session import ChatSession

COLUMNS_FROM = 100  # cells of the screen, below which panels fold
_SEEN_FROM = {"adapters": 100, "conversations": 120}  # where a panel is there without being asked for
_SHARE = {"adapters": (0.21, 30, 42), "conversations": (0.19, 28, 38)}  # of the width: least and most cells
_DRAWER = 44  # cells of a panel drawn over the conversation


class Regions(Horizontal):
    def __init__(self, middle: Widget, width: int) -> None:
        """`width` is the screen's, as far as it is known before the first frame."""
        super().__init__()
        self.conversations, self.adapters = ConversationsPanel(), AdaptersPanel()
        self._middle = middle
        self._width = width
        self._chosen: dict[Panel, bool] = {}
        self._drawer: Panel | None = None
        self._fit()

    def compose(self) -> ComposeResult:
        yield from (one for one in (self.conversations, self._middle, self.adapters) if one.display)

    @property
    def panels(self) -> tuple[Panel, Panel]:
        return self.conversations, self.adapters

    async def open(self, session: ChatSession) -> None:
        """The core is there: what is seen of the panels gets its content."""
        for panel in self.panels:
            panel.open(session)
        await self._fill()

    async def on_resize(self, event: events.Resize) -> None:
        if event.size.width != self._width:
            self._width = event.size.width
            self._fit()
            await self._fill()
            if not any(panel.has_focus_within for panel in self.panels if panel.display):
                self._drawer = None

    def entitle(self) -> None:
        """Keys may be others now."""
        for panel in self.panels:
            panel.entitle()

    async def toggle(self, panel: Panel) -> None:
        """Go to `panel`, which comes where it was not; from there, fold it away."""
        if panel.display and panel.has_focus_within:
            self._drawer = None
            if not self._folds:
                self._chosen[panel] = False
            panel.post_message(Panel.Left())
        else:
            if self._folds:
                self._drawer = panel
            else:
                self._chosen[panel] = True
        self._fit()
        if panel.display:
            await self._place(panel)
            await panel.fill()
            panel.take_focus()

    def on_descendant_focus(self, event: events.DescendantFocus) -> None:
        """A panel over the conversation is there while it has the focus."""
        if self._drawer is not None and self._drawer not in event.widget.ancestors_with_self:
            self._drawer = None
            self._fit()

    @property
    def _folds(self) -> bool:
        return self._width < COLUMNS_FROM

    def _fit(self) -> None:
        for panel in self.panels:
            share, least, most = _SHARE[panel.id or ""]
            seen = self._chosen.get(panel, self._width >= _SEEN_FROM[panel.id or ""])
            panel.display = self._drawer is panel if self._folds else seen
            panel.set_class(self._folds, "-drawer")
            width = min(_DRAWER, self._width - 4) if self._folds else min(max(round(share * self._width), least), most)
            panel.styles.width = width

    async def _fill(self) -> None:
        for panel in self.panels:
            if panel.display:
                await self._place(panel)
                if panel.session is not None:
                    await panel.fill()

    async def _place(self, panel: Panel) -> None:
        """Mount a panel that nobody has seen yet: the first frame does without it."""
        if not panel.is_attached:
            await self.mount(panel, before=self._middle if panel is self.conversations else None)
