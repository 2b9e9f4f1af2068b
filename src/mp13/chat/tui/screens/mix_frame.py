"""What the mix does to the last answer, on the screen: it follows the weights, and it is taken apart by a heat map.

How a preview comes about is live.py's.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

from textual import on

from mp13.chat.tui.dialogue import Dialogue
from mp13.chat.tui.live import Live
from mp13.chat.tui.screens.turns_frame import TurnsFrame
from mp13.chat.tui.widgets.adapters import AdaptersPanel
from mp13.chat.tui.widgets.heat_map import HeatMap

if TYPE_CHECKING:
    from mp13.chat.conversation.diff import Diff
    from mp13.chat.tui.events import Entry


class MixFrame(TurnsFrame):
    _live: Live
    _dialogue: Dialogue

    @abstractmethod
    def _offer_stop(self) -> None:
        """There may be something to stop now, or nothing any more."""

    @on(AdaptersPanel.Followed)
    def _follow_weights(self) -> None:
        self._live.is_on = not self._live.is_on
        if self._session is not None and self._live.is_on:
            self._live.follow(self._session)
        self._tell_live()

    @on(AdaptersPanel.Decided)
    async def _decided(self, event: AdaptersPanel.Decided) -> None:
        if not event.keeps:
            await self._live.drop()
        elif self._session is not None and await self._live.keep(self._session):
            await self._follow()
        self._tell_live()

    def _tell_live(self) -> None:
        self._regions.adapters.tell_live(self._live.is_on, self._live.preview is not None)
        self._offer_stop()

    async def _take_apart(self, entry: Entry, diff: Diff) -> None:
        heat_map = HeatMap(diff)
        await self._dialogue.take_apart(entry, heat_map)
        self._transcript.anchor()
        if not self._prompt.text:
            heat_map.focus(scroll_visible=False)

    @on(HeatMap.Left)
    async def _heat_map_left(self, event: HeatMap.Left) -> None:
        await self._dialogue.leave(event.heat_map)
        self._prompt.focus()
