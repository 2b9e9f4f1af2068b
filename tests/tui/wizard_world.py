"""The wizard on a terminal that does not exist, before a machine, models and an engine that do not exist either."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from textual.pilot import Pilot

from mp13.chat.settings.user_file import Written
from mp13.chat.wizard import step as step_module
from mp13.chat.wizard.app import STEPS, Wizard
from mp13.chat.wizard.state import State, World
from mp13.engine.models.footprint import model_shape
from mp13.errors import Mp13Error
from mp13.library.fit import SavedModel
from mp13.library.machine import Computer, Survey
from mp13.library.models import ModelOnDisk
from mp13.library.starter import STARTER_SHAPE
from tests.fakes.fake_client import FakeHost
from tests.fakes.fake_machine import LAPTOP, LLAMA_8B, ON_LAPTOP
from tests.tui.conftest import PATIENCE
from tests.tui.pictures import picture_at_rest

SHAPES = {"smollm2": STARTER_SHAPE, "llama": LLAMA_8B}


@dataclass
class FakeWorld:
    """`survey_waits` keeps torch from answering until it is set, `measuring_waits` the Hub. `unmeasured` models raise
    this."""

    computer: Computer = LAPTOP
    survey: Survey = ON_LAPTOP
    survey_waits: asyncio.Event | None = None
    models: Sequence[ModelOnDisk] = ()
    starter_ready: bool = True
    unmeasured: Mp13Error | None = None
    measuring_waits: threading.Event | None = None
    host: FakeHost = field(default_factory=FakeHost)
    measured: list[str] = field(default_factory=list)
    surveys_ended: int = 0

    def world(self) -> World:
        return World(
            computer=lambda: self.computer,
            survey=self._survey,
            models=lambda: list(self.models),
            starter_ready=lambda: self.starter_ready,
            measure=self._measure,
            connect=self.host,  # type: ignore[arg-type]
        )

    async def _survey(self, block_size: int) -> Survey:
        try:
            if self.survey_waits is not None:
                await self.survey_waits.wait()
        finally:
            self.surveys_ended += 1
        return self.survey

    def _measure(self, model: str) -> SavedModel:
        self.measured.append(model)
        if self.measuring_waits is not None:
            self.measuring_waits.wait()
        if self.unmeasured is not None:
            raise self.unmeasured
        kind = "llama" if "lama" in model else "smollm2"
        return SavedModel(model_shape(SHAPES[kind]), 2, None)


class Sitting:
    """Somebody before the wizard."""

    def __init__(self, app: Wizard, pilot: Pilot[Written]) -> None:
        self.app = app
        self.pilot = pilot
        self.press = pilot.press

    @property
    def draft(self) -> dict[str, Any]:
        """What differs from the file by now."""
        return self.app.state.draft.changes

    def shown(self) -> str:
        strips = self.app.screen._compositor.render_strips()
        return "\n".join(strip.text.rstrip() for strip in strips)

    @property
    def flowing(self) -> str:
        """What is shown, as if lines had no end."""
        return " ".join(self.shown().replace("▎", " ").split())

    async def until(self, condition: Callable[[], object]) -> None:
        for _ in range(PATIENCE):
            if condition():
                await self.pilot.pause()
                return
            await asyncio.sleep(0.01)
        pytest.fail(f"it never happened; the screen shows\n{self.shown()}")

    async def sees(self, *texts: str) -> None:
        await self.until(lambda: all(text in self.flowing for text in texts))

    async def at(self, name: str) -> None:
        """Wait for the step of that name."""
        await self.until(lambda: name == self.app.step.NAME and self.app.step.is_mounted)

    async def go(self, name: str) -> None:
        """Go on with what is marked, step after step, to that one."""
        names = [step.NAME for step in STEPS]
        for after in names[names.index(self.app.step.NAME) + 1 : names.index(name) + 1]:
            await self.rests()
            await self.press("ctrl+n")
            await self.at(after)
        await self.rests()

    async def rests(self) -> None:
        """Until nothing is waited for."""
        await self.until(lambda: not any(busy.display for busy in self.app.step.query(step_module.Busy)))

    async def still(self) -> str:
        """The picture when everything has come to rest."""
        return await picture_at_rest(self.pilot)


@asynccontextmanager
async def sitting(
    fake: FakeWorld | None = None, *, at: str = "Machine", size: tuple[int, int] = (80, 24)
) -> AsyncIterator[Sitting]:
    """Somebody who has gone as far as the step `at`."""
    app = Wizard(State((fake or FakeWorld()).world()))
    async with app.run_test(size=size) as pilot:
        somebody = Sitting(app, pilot)
        if at != "Machine":
            await somebody.go(at)
        yield somebody
