"""The chat on a terminal that does not exist: a pilot at its keys, what it shows as text, and its picture."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from syrupy.assertion import SnapshotAssertion
from syrupy.extensions.image import SVGImageSnapshotExtension
from textual.pilot import Pilot
from textual.widget import Widget
from textual.widgets import Input

from mp13.chat.conversation import connection
from mp13.chat.conversation.session import ChatSession
from mp13.chat.tui.app import ChatApp
from mp13.chat.tui.screens.conversation import ConversationScreen
from mp13.chat.tui.widgets.prompt import Prompt
from mp13.chat.tui.widgets.status import StatusLine
from mp13.chat.tui.widgets.transcript import Transcript
from mp13.chat.wizard import step
from tests.fakes.fake_session import FakeSession
from tests.tui.pictures import picture_at_rest, picture_of

PATIENCE = 1000  # looks at the screen, 10 ms apart, before a test gives up


class Chat:
    """A running chat as its reader meets it."""

    def __init__(self, app: ChatApp, pilot: Pilot[Exception], session: FakeSession | ChatSession) -> None:
        self.app = app
        self.pilot = pilot
        self.session = session
        self.press = pilot.press

    @property
    def conversation(self) -> ConversationScreen:
        return next(screen for screen in self.app.screen_stack if isinstance(screen, ConversationScreen))

    @property
    def prompt(self) -> Prompt:
        return self.conversation.query_one(Prompt)

    @property
    def transcript(self) -> Transcript:
        return self.conversation.query_one(Transcript)

    @property
    def status(self) -> str:
        return str(self.conversation.query_one(StatusLine).render())

    def shown(self, widget: Widget | None = None) -> str:
        """The characters on the screen, or in `widget`'s part of it, trailing spaces left out."""
        strips = self.app.screen._compositor.render_strips()
        if widget is not None:
            region = widget.region
            strips = [strip.crop(region.x, region.right) for strip in strips[region.y : region.bottom]]
        return "\n".join(strip.text.rstrip() for strip in strips)

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait for something to become true, and for the screen to show it."""
        for _ in range(PATIENCE):
            if condition():
                await self.pilot.pause()
                return
            if not self.app.is_running:
                pytest.fail(f"the chat has ended with code {self.app.return_code} and {self.app.return_value!r}")
            await asyncio.sleep(0.01)
        pytest.fail(f"it never happened; the screen shows\n{self.shown()}")

    async def sees(self, *texts: str) -> None:
        """Wait until all of `texts` are on the screen."""
        await self.until(lambda: all(text in self.shown() for text in texts))

    async def send(self, text: str) -> None:
        """Type nothing but Enter: `text` is put in the prompt."""
        self.prompt.focus()
        self.prompt.show(text)
        await self.press("enter")

    async def say(self, text: str) -> None:
        """Send `text` and wait until all that was sent is done."""
        await self.send(text)
        await self.rests()

    async def rests(self) -> None:
        await self.until(lambda: self.conversation.is_idle)

    async def still(self) -> str:
        """The picture when everything has come to rest."""
        return await picture_at_rest(self.pilot)

    def picture(self) -> str:
        return picture_of(self.app)


@asynccontextmanager
async def chatting(
    session: FakeSession | ChatSession, size: tuple[int, int] = (80, 24), ready: bool = True
) -> AsyncIterator[Chat]:
    """A chat over `session`; with `ready`, from when its engine is up."""

    async def open_session() -> ChatSession:
        return session  # type: ignore[return-value]

    app = ChatApp(open_session)
    async with app.run_test(size=size, notifications=True) as pilot:
        chat = Chat(app, pilot, session)
        if ready:
            await chat.rests()
        yield chat


@pytest.fixture
def picture(snapshot: SnapshotAssertion) -> SnapshotAssertion:
    return snapshot.use_extension(SVGImageSnapshotExtension)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The starter need not be fetched."""
    monkeypatch.setattr(connection, "install_starter", lambda progress: None)


@pytest.fixture
def still(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing moves by itself, and folders are called the same everywhere, so that pictures can be compared."""
    monkeypatch.setattr(step, "_FRAMES", "⠿")
    monkeypatch.setattr(Input, "cursor_blink", False)
    monkeypatch.setenv("MP13_CONFIG_DIR", "/home/me/.config/mp13")
    monkeypatch.setenv("MP13_DATA_DIR", "/home/me/.local/share/mp13")
