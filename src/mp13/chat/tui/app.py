"""The chat on a terminal. `run` paints first and loads afterwards: nothing imported here may import the core.

One screen does the work (screens/conversation.py); this is what surrounds it: themes, keys, palette, quitting.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from textual import events
from textual.app import App
from textual.binding import Keymap
from textual.filter import LineFilter
from textual.screen import Screen

from mp13.chat.ending import when_told_to_end
from mp13.chat.settings.keys import checked_keys
from mp13.chat.settings.themes import DARK
from mp13.chat.tui.command_search import CommandSearch
from mp13.chat.tui.gate import Gate
from mp13.chat.tui.keymap import bind
from mp13.chat.tui.palette import voice_variables
from mp13.chat.tui.screens.conversation import ConversationScreen, OpenSession
from mp13.chat.tui.terminal_keys import set_up_keys
from mp13.chat.tui.themes import OWN_THEMES

if TYPE_CHECKING:
    from mp13.chat.conversation.session import ChatSession
    from mp13.chat.settings.schema import Settings

QUIT_WINDOW_S = 2.0  # how long a second Ctrl+C quits


class ChatApp(App[Exception]):
    """Exits with None, or with the error that kept the chat from starting."""

    TITLE = "mp13"
    CSS_PATH = "styles.tcss"
    COMMANDS = {CommandSearch}
    BINDINGS = [
        bind("app.palette", "command_palette", "Commands", priority=True),
        bind("app.redraw", "redraw"),
        bind("app.quit", "quit", "Quit", priority=True),
    ]

    def __init__(self, open_session: OpenSession, theme: str = DARK) -> None:
        """`theme` is that of the first frame; settings come after it."""
        super().__init__()
        for own in OWN_THEMES:
            self.register_theme(own)
        self.theme = theme
        self._gate = Gate()
        self.key_pressed_at = 0.0  # by `time.monotonic`
        self.given_keys: dict[str, str] = {}  # those of the settings, by id
        self._open_session = open_session
        self._asked_to_quit = False

    def on_mount(self) -> None:
        when_told_to_end(lambda code: self.exit(return_code=code))

    def get_default_screen(self) -> Screen[None]:
        return ConversationScreen(self._open_session)

    def get_theme_variable_defaults(self) -> dict[str, str]:
        return voice_variables(self.current_theme.dark)

    def get_line_filters(self) -> Sequence[LineFilter]:
        return [*super().get_line_filters(), self._gate]

    def set_keymap(self, keymap: Keymap) -> None:
        """Raises ConfigError when an action or key is unknown, or a key is used twice."""
        self.given_keys = checked_keys(keymap)
        super().set_keymap(self.given_keys)

    async def on_event(self, event: events.Event) -> None:
        if isinstance(event, events.Key):
            self.key_pressed_at = time.monotonic()
        await super().on_event(event)

    def action_redraw(self) -> None:
        self.refresh(layout=True)

    def action_help_quit(self) -> None:
        """Ctrl+C: the first asks, the second quits."""
        if self._asked_to_quit:
            self.exit()
        self._asked_to_quit = True
        self.set_timer(QUIT_WINDOW_S, self._forget_quit)
        self.notify("Press Ctrl+C again to quit.", timeout=QUIT_WINDOW_S)

    def _forget_quit(self) -> None:
        self._asked_to_quit = False


def run(settings: Settings | Callable[[], Settings], resume: str | None = None, theme: str = DARK) -> int:
    """Chat until the reader leaves; returns the exit code.

    Settings given as a function are loaded after the first frame, which has `theme`. `resume` is as for
    `ChatSession.open`.

    Raises:
        Mp13Error: the settings cannot be used or the conversation cannot be opened. The screen is gone by then.
    """
    set_up_keys()
    opened: list[ChatSession] = []

    async def open_one() -> ChatSession:
        opened.append(await open_session(settings, resume))
        return opened[-1]

    app = ChatApp(open_one, theme)
    error = app.run()
    if error is not None:
        raise error
    if opened and (farewell := opened[-1].training.farewell):
        from mp13.chat.text import printable

        print(printable(f"mp13chat: {farewell}"), file=sys.stderr)
    return app.return_code or 0


async def open_session(settings: Settings | Callable[[], Settings], resume: str | None) -> ChatSession:
    """The real session. What it imports is imported in a thread, so that the reader can type meanwhile."""
    await asyncio.to_thread(_import_core)
    gc.freeze()  # modules stay: a collection that looks at them all takes 0.1 s, maybe between a key and its frame
    from mp13.chat.conversation.session import ChatSession

    return ChatSession.open(settings() if callable(settings) else settings, resume)


def _import_core() -> None:
    import mp13.chat.commands.table
    import mp13.chat.conversation.badge
    import mp13.chat.conversation.session
    import mp13.chat.tui.widgets.answer_markdown
    import mp13.service.launcher  # noqa: F401
