"""The way to the first frame: light imports, nothing loaded before it, errors of what comes after it."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mp13.chat.conversation.session import ChatSession
from mp13.chat.conversation.turn import LoadNote
from mp13.chat.tui import app as tui
from mp13.errors import ConfigError
from tests.fakes.fake_session import FakeSession
from tests.tui.conftest import chatting

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(tui.__file__).parents[3])}
HEAVY = {"torch", "transformers", "pydantic", "pydantic_settings", "httpx", "sqlite3", "markdown_it", "typer", "numpy"}


class TestFirstFrame:
    def test_nothing_heavy_is_imported_before_it(self) -> None:
        code = "import json, sys, mp13.chat.tui.app; print(json.dumps(sorted(sys.modules)))"
        modules = json.loads(subprocess.check_output([sys.executable, "-c", code], env=ENVIRONMENT, text=True))
        assert {name.partition(".")[0] for name in modules} & HEAVY == set()
        assert [name for name in modules if name.startswith(("mp13.chat.conversation.", "mp13.service."))] == []

    async def test_the_session_is_opened_after_it(self) -> None:
        shown: list[str] = []

        async def open_session() -> ChatSession:
            shown.append("\n".join(strip.text for strip in app.screen._compositor.render_strips()))
            return FakeSession()  # type: ignore[return-value]

        app = tui.ChatApp(open_session)
        async with app.run_test(size=(160, 40)) as pilot:
            while not shown:
                await pilot.pause(0.01)
            while "the model alone" not in str(app.export_screenshot()).replace("&#160;", " "):
                await pilot.pause(0.01)
        assert "Ask anything" in shown[0]
        assert "starting" in shown[0]
        assert "the model alone" not in shown[0], "what is in the panels has to wait"

    async def test_keys_are_taken_before_the_session_is_open(self) -> None:
        gate = asyncio.Event()
        session = FakeSession(["Hello."])

        async def open_session() -> ChatSession:
            await gate.wait()
            return session  # type: ignore[return-value]

        app = tui.ChatApp(open_session)
        async with app.run_test() as pilot:
            await pilot.press("/", "a", "tab", "escape", "ctrl+o", "f1", "escape", "backspace", "backspace")
            await pilot.press("h", "i", "enter")
            gate.set()
            while len(session.turns) < 2:
                await pilot.pause(0.01)
        assert session.asked == [("base", "hi")]


class TestNotesOfStarting:
    async def test_what_was_done_before_the_engine_loads_is_said_in_the_conversation(self) -> None:
        session = FakeSession(load=[LoadNote("one: a [b]new\x1b[31m one"), *FakeSession()._load])
        async with chatting(session) as chat:
            await chat.sees("one: a [b]new one")


class TestErrorsOfStarting:
    async def test_a_session_that_cannot_be_opened_ends_the_app_with_its_error(self) -> None:
        async def open_session() -> ChatSession:
            raise ConfigError("temperature = -1 cannot be used; give 0 (greedy) or more")

        app = tui.ChatApp(open_session)
        async with app.run_test() as pilot:
            await pilot.pause(0.2)
        assert isinstance(app.return_value, ConfigError)

    def test_run_raises_it_once_the_screen_is_gone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tui.ChatApp, "run", lambda self: ConfigError("no"))
        with pytest.raises(ConfigError, match="no"):
            tui.run(lambda: pytest.fail("run itself loads no settings"))

    def test_run_gives_zero_when_the_reader_leaves(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tui.ChatApp, "run", lambda self: None)
        assert tui.run(lambda: pytest.fail("run itself loads no settings")) == 0


class TestLeaving:
    async def test_the_session_is_let_go_however_the_app_ends(self) -> None:
        session = FakeSession()
        async with chatting(session):
            pass
        assert session.closed
