"""What the palette finds: every slash command, and everything that a key does on the screen under it.

All the words that are typed have to be there; Textual's own search would also take letters far apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from textual.command import DiscoveryHit, Hit, Hits, Provider
from textual.content import Content
from textual.types import IgnoreReturnCallbackType

from mp13.chat.settings.keys import KEY_ACTIONS, keys_of, label
from mp13.chat.text import printable
from mp13.chat.tui.keymap import given_keys
from mp13.chat.tui.screens.conversation import ConversationScreen


@dataclass(frozen=True)
class _Entry:
    title: str
    help: str
    run: IgnoreReturnCallbackType


class CommandSearch(Provider):
    async def discover(self) -> Hits:
        for entry in self._entries():
            yield DiscoveryHit(Content(entry.title), entry.run, entry.title, entry.help)

    async def search(self, query: str) -> Hits:
        words = query.lower().split()
        for entry in self._entries():
            title = entry.title.lower()
            if all(word in f"{title} {entry.help.lower()}" for word in words):
                begins = sum(f" {word}" in f" {title.lstrip('/')}" for word in words)
                score = 1 + begins + sum(word in title for word in words)
                yield Hit(score, Content(entry.title), entry.run, entry.title, entry.help)

    def _entries(self) -> list[_Entry]:
        """Slash commands first; those that take no argument run at once, the others are written into the prompt."""
        screen = self.screen
        if not isinstance(screen, ConversationScreen):
            return self._actions()
        commands = [
            _Entry(printable(one.label), printable(one.help), partial(screen.choose, one.value))
            for one in screen.commands()
        ]
        return commands + self._actions()

    def _actions(self) -> list[_Entry]:
        """What keys do now, but for what can only be meant while one types."""
        found: dict[str, _Entry] = {}
        keys = keys_of(given_keys(self.screen))
        for node, binding, *_ in self.screen.active_bindings.values():
            action = KEY_ACTIONS.get(binding.id or "")
            if action is not None and action.scope != "prompt" and action.id != "app.palette":
                title = action.help[0].upper() + action.help[1:]
                run = partial(self.app.run_action, binding.action, node)
                found.setdefault(action.id, _Entry(title, label(keys[action.id]), run))
        return list(found.values())
