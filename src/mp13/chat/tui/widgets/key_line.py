"""The last line: what keys do where the focus is now, and what they do everywhere. Each can be clicked.

In place of Textual's Footer, which makes a widget of each key, has them in no order, and cuts what has no room.
"""

from __future__ import annotations

from dataclasses import dataclass

from rich.cells import cell_len
from textual import events
from textual.content import Content
from textual.screen import Screen
from textual.widget import Widget

from mp13.chat.settings.keys import KEY_ACTIONS, label
from mp13.chat.tui.widgets.rows import MUTED

_NEAREST = (
    "dialogs",
    "training",
    "comparison",
    "diff",
    "turns",
    "conversations",
    "adapters",
    "prompt",
    "chat",
    "app",
)  # scopes, in this order
_GAP = 3


@dataclass(frozen=True)
class _Hint:
    key: str
    text: str

    @property
    def label(self) -> str:
        return label(self.key)

    @property
    def width(self) -> int:
        return cell_len(f"{self.label} {self.text}")


class KeyLine(Widget):
    def __init__(self) -> None:
        super().__init__()
        self._hints: list[_Hint] = []

    def on_mount(self) -> None:
        self.screen.bindings_updated_signal.subscribe(self, self._changed)

    def _changed(self, screen: Screen[object]) -> None:
        hints = _hints(screen)
        if hints != self._hints:
            self._hints = hints
            self.refresh()

    def render(self) -> Content:
        pieces: list[tuple[str, str]] = []
        for hint in self._fitting():
            pieces += [(" " * _GAP, "")] if pieces else []
            pieces += [(hint.label, "bold"), (f" {hint.text}", MUTED)]
        return Content.assemble(*pieces)

    def _fitting(self) -> list[_Hint]:
        """As many as there is room for; the last ones matter least."""
        fitting: list[_Hint] = []
        room = self.content_size.width
        for hint in self._hints:
            room -= hint.width + (_GAP if fitting else 0)
            if room < 0:
                break
            fitting.append(hint)
        return fitting

    def on_click(self, event: events.Click) -> None:
        x = event.x - self.gutter.left
        for hint in self._fitting():
            if 0 <= x < hint.width:
                self.app.simulate_key(hint.key)
                return
            x -= hint.width + _GAP


def _hints(screen: Screen[object]) -> list[_Hint]:
    order = list(KEY_ACTIONS)
    found: dict[str, _Hint] = {}
    for _, binding, enabled, _ in screen.active_bindings.values():
        if binding.show and enabled and binding.id in KEY_ACTIONS:
            found.setdefault(binding.id, _Hint(binding.key, binding.description))
    nearest = sorted(found, key=lambda id: (_NEAREST.index(KEY_ACTIONS[id].scope), order.index(id)))
    return [found[id] for id in nearest]
