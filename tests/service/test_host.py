"""What the host keeps straight around the engine; in process, where the moment can be chosen."""

import asyncio
from pathlib import Path

import pytest

from mp13.engine.config import EngineConfig
from mp13.service.endpoint import Launch
from mp13.service.host import EngineHost
from mp13.service.schema import FinishEvent, LoadAdapterRequest, LoadEvent
from tests.service.conftest import FAKE, asking


async def test_an_adapter_replaced_during_an_answer_does_not_put_its_name_under_it(tmp_path: Path) -> None:
    for folder in ("old", "new"):
        (tmp_path / folder).mkdir()
    host = EngineHost(Launch(config=EngineConfig("fake"), engine=FAKE))
    old = await host.load_adapter(LoadAdapterRequest(path=str(tmp_path / "old"), name="pirate"))
    answer = host.answer(asking("count 5", "pirate"))
    await anext(answer)
    new = await host.load_adapter(LoadAdapterRequest(path=str(tmp_path / "new"), name="pirate"))
    *_, last = [event async for event in answer]
    assert isinstance(last, FinishEvent)
    assert [adapter.digest for adapter in last.provenance.adapters] == [old.digest] != [new.digest]
    await host.close()


async def test_progress_of_a_thousand_tensors_is_few_events_and_no_stage_is_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    host = EngineHost(Launch(config=EngineConfig("fake"), engine=FAKE))
    await host.adapters()
    published: list[LoadEvent] = []
    monkeypatch.setattr(host.news, "tell", published.append)
    for stage in ("weights", "cache"):
        for tensor in range(1000):
            host._progress(stage, tensor / 1000)
    await asyncio.sleep(0.05)
    assert {event.stage for event in published} == {"weights", "cache"}
    assert len(published) < 20
    await host.close()
