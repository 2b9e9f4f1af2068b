"""The chat on a terminal. `run` paints first and loads afterwards: nothing imported here may import the core.

One screen does the work (screens/conversation.py); this is what surrounds it: themes, palette, quitting.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING

from textual.app import App, SystemCommand
from textual.binding import Binding
from textual.screen import Screen

from mp13.chat.tui.palette import voice_variables
from mp13.chat.tui.screens.conversation import ConversationScreen, OpenSession

if TYPE_CHECKING:
    from mp13.chat.conversation.session import ChatSession
    from mp13.chat.settings.schema import Settings

DARK, LIGHT = "catppuccin-mocha", "catppuccin-latte"
QUIT_WINDOW_S = 2.0  # how long a second Ctrl+C quits


class ChatApp(App[Exception]):
    """Exits with None, or with the error that kept the chat from starting."""

    TITLE = "mp13"
    CSS_PATH = "styles.tcss"
    BINDINGS = [
        Binding("ctrl+t", "switch_light", "Light or dark", show=False),
        Binding("ctrl+l", "redraw", "Redraw", show=False),
        Binding("ctrl+q", "quit", "Quit", priority=True),
    ]

    def __init__(self, open_session: OpenSession) -> None:
        super().__init__()
        self.theme = DARK
        self._open_session = open_session
        self._asked_to_quit = False

    def get_default_screen(self) -> Screen[None]:
        return ConversationScreen(self._open_session)

    def get_theme_variable_defaults(self) -> dict[str, str]:
        return voice_variables(self.current_theme.dark)

    def get_system_commands(self, screen: Screen[object]) -> Iterable[SystemCommand]:
        yield from super().get_system_commands(screen)
        if isinstance(screen, ConversationScreen):
            for command in screen.commands():
                yield SystemCommand(command.label, command.help, partial(screen.write, command.value))

    def action_switch_light(self) -> None:
        self.theme = LIGHT if self.current_theme.dark else DARK

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


def run(settings: Settings | Callable[[], Settings], resume: str | None = None) -> int:
    """Chat until the reader leaves; returns the exit code.

    Settings given as a function are loaded after the first frame. `resume` is as for `ChatSession.open`.

    Raises:
        Mp13Error: the settings cannot be used or the conversation cannot be opened. The screen is gone by then.
    """
    error = ChatApp(lambda: open_session(settings, resume)).run()
    if error is not None:
        raise error
    return 0


async def open_session(settings: Settings | Callable[[], Settings], resume: str | None) -> ChatSession:
    """The real session. What it imports is imported in a thread, so that the reader can type meanwhile."""
    await asyncio.to_thread(_import_core)
    from mp13.chat.conversation.session import ChatSession

    return ChatSession.open(settings() if callable(settings) else settings, resume)


def _import_core() -> None:
    import mp13.chat.commands.table
    import mp13.chat.conversation.badge
    import mp13.chat.conversation.session
    import mp13.chat.tui.widgets.answer_markdown
    import mp13.service.launcher  # noqa: F401
