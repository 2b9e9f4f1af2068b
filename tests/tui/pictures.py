"""Pictures of an app's screen, as SVG."""

import re
from typing import Any

import pytest
from textual.app import App
from textual.pilot import Pilot

PATIENCE = 200  # looks, 50 ms apart, before a test gives up


def picture_of(app: App[Any]) -> str:
    """The screen, without the ids that differ from run to run."""
    return re.sub(r"terminal-\d+", "terminal", app.export_screenshot())


async def picture_at_rest(pilot: Pilot[Any]) -> str:
    """The screen when everything has come to rest."""
    before = ""
    for _ in range(PATIENCE):
        await pilot.pause(0.05)
        if (now := picture_of(pilot.app)) == before:
            return now
        before = now
    pytest.fail("the screen never comes to rest")
