"""What each step of the wizard looks like, on terminals of three sizes. After a change that is meant: look at it, then
`pytest tests/tui/test_wizard_screens.py --snapshot-update`.
"""

import asyncio
from pathlib import Path

import pytest
from syrupy.assertion import SnapshotAssertion

from mp13.chat.wizard.steps import adapters
from mp13.errors import ModelError
from mp13.library.adapters import AdapterOnDisk
from mp13.library.machine import Survey
from tests.fakes.fake_client import FakeHost
from tests.fakes.fake_machine import MODELS, ON_CARD, ON_LAPTOP
from tests.tui.wizard_world import FakeWorld, sitting

SIZES = ((80, 24), (120, 36), (200, 60))
ANSWER = "Hello! I can answer questions, help you write, and explain things in plain words."
ADAPTERS = [
    AdapterOnDisk("json", Path("/home/me/my-adapters/json"), 8, "lora", 1_900_000, None),
    AdapterOnDisk("pirate", Path("/home/me/my-adapters/pirate"), 16, "lora", 3_700_000, None),
    AdapterOnDisk("wide", Path("/home/me/my-adapters/wide"), 128, "lora", 9_900_000, "it is damaged; copy it again"),
]  # fmt: skip


@pytest.fixture(autouse=True)
def world(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, installed: None, still: None) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(adapters, "available_adapters", lambda folders: ADAPTERS)


def on(survey: Survey, *answer: str) -> FakeWorld:
    return FakeWorld(survey=survey, models=MODELS, host=FakeHost(list(answer or (ANSWER,))))


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
class TestSteps:
    async def test_machine(self, size: tuple[int, int], picture: SnapshotAssertion) -> None:
        async with sitting(on(ON_CARD), size=size) as reader:
            await reader.sees("torch 2.13.0")
            assert await reader.still() == picture

    async def test_model(self, size: tuple[int, int], picture: SnapshotAssertion) -> None:
        async with sitting(on(ON_CARD), at="Model", size=size) as reader:
            assert await reader.still() == picture

    async def test_memory(self, size: tuple[int, int], picture: SnapshotAssertion) -> None:
        """A model of 8 billion parameters on a laptop: some of it fits."""
        async with sitting(on(ON_LAPTOP), at="Model", size=size) as reader:
            await reader.press("home")
            await reader.go("Memory")
            await reader.press("down", "down", "left")
            await reader.sees("Does not fit")
            assert await reader.still() == picture

    async def test_attention(self, size: tuple[int, int], picture: SnapshotAssertion) -> None:
        async with sitting(on(ON_CARD), at="Attention", size=size) as reader:
            assert await reader.still() == picture

    async def test_adapters(self, size: tuple[int, int], picture: SnapshotAssertion) -> None:
        async with sitting(on(ON_LAPTOP), at="Adapters", size=size) as reader:
            await reader.sees("3 adapters")
            assert await reader.still() == picture

    async def test_theme(self, size: tuple[int, int], picture: SnapshotAssertion) -> None:
        async with sitting(on(ON_LAPTOP), at="Theme", size=size) as reader:
            assert await reader.still() == picture

    async def test_trial(self, size: tuple[int, int], picture: SnapshotAssertion) -> None:
        async with sitting(on(ON_LAPTOP), at="Test", size=size) as reader:
            await reader.sees("It answers")
            assert await reader.still() == picture

    async def test_write(self, size: tuple[int, int], picture: SnapshotAssertion) -> None:
        async with sitting(on(ON_LAPTOP), at="Attention", size=size) as reader:
            await reader.press("down")
            await reader.go("Write")
            assert await reader.still() == picture


class TestMoments:
    async def test_torch_is_asked(self, picture: SnapshotAssertion) -> None:
        async with sitting(FakeWorld(survey_waits=asyncio.Event())) as reader:
            await reader.sees("asking torch")
            assert await reader.still() == picture

    async def test_something_is_wrong(self, picture: SnapshotAssertion) -> None:
        async with sitting(at="Model") as reader:
            await reader.press("tab", *"./nowhere", "enter")
            await reader.sees("There is no model")
            assert await reader.still() == picture

    async def test_the_engine_does_not_answer(self, picture: SnapshotAssertion) -> None:
        broken = on(ON_LAPTOP)
        broken.host.answers = [[ModelError("cpu ran out of memory while it read weights; choose a smaller model")]]  # type: ignore[list-item]
        async with sitting(broken, at="Test") as reader:
            await reader.sees("It does not answer")
            assert await reader.still() == picture

    async def test_leaving(self, picture: SnapshotAssertion) -> None:
        async with sitting(at="Memory") as reader:
            await reader.press("escape")
            await reader.sees("Leave the wizard?")
            assert await reader.still() == picture

    async def test_no_color_leaves_everything_legible(
        self, monkeypatch: pytest.MonkeyPatch, picture: SnapshotAssertion
    ) -> None:
        monkeypatch.setenv("NO_COLOR", "1")
        async with sitting(on(ON_CARD), at="Attention") as reader:
            assert await reader.still() == picture


async def test_a_screen_follows_its_terminal() -> None:
    async with sitting(on(ON_LAPTOP), at="Memory") as reader:
        for size in ((60, 16), (200, 60), (40, 12), (80, 24)):
            await reader.pilot.resize_terminal(*size)
            await reader.press("right", "left")
            assert reader.app.query_one("#next").region.bottom <= size[1]
        await reader.sees("longest", "Fits:")
