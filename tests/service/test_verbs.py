"""What a chat can ask of an engine process, and what it hears when that cannot be done."""

import asyncio
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from mp13.engine.config import EngineConfig
from mp13.errors import AdapterError, ContextError, MixError, ModelError, Mp13Error, UnsupportedError
from mp13.library.effects import known_effects
from mp13.service.client import EngineClient
from mp13.service.schema import (
    AdaptersEvent,
    CompareRequest,
    CountRequest,
    EngineEvent,
    FailedEvent,
    FinishEvent,
    GenerateRequest,
    LoadEvent,
    Message,
    PrefillRequest,
    ReadyEvent,
    ScoreRequest,
    StartedEvent,
    TokenEvent,
)
from tests.service.conftest import Chats, answer, asking, runtime_folder


@pytest.fixture(scope="module", autouse=True)
def runtime() -> Iterator[Path]:
    """One for all tests here, which share the engine that the one before them left in its grace."""
    with runtime_folder() as folder:
        yield folder


@pytest.fixture(autouse=True)
def private_folders(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MP13_DATA_DIR", str(runtime.parent / "data"))


async def ready(chats: Chats, **settings: Any) -> EngineClient:
    """A client of an engine that is ready and has no adapters."""
    client = await chats.open(**settings)
    for adapter in await client.adapters():
        await client.unload_adapter(adapter.name)
    return client


async def life_until(client: EngineClient, kind: type[EngineEvent]) -> list[EngineEvent]:
    seen: list[EngineEvent] = []
    async with aclosing(client.events()) as events:
        async for event in events:
            seen.append(event)
            if isinstance(event, kind):
                return seen
    raise AssertionError("unreachable")


async def test_events_tell_the_load_and_then_that_the_engine_is_ready(chats: Chats) -> None:
    client = await chats.open(seed=1)
    *loading, ready, adapters = await life_until(client, AdaptersEvent)
    assert loading
    assert all(isinstance(event, LoadEvent) for event in loading)
    assert isinstance(ready, ReadyEvent)
    assert ready.engine.model == "fake"
    assert ready.engine.notes == ("attention: sdpa, because this is a fake",)
    assert ready.engine.pid == (await client.health()).pid
    assert adapters == AdaptersEvent(adapters=[])


async def test_who_comes_later_hears_one_load_event_and_the_present_state(chats: Chats) -> None:
    kinds = [event.type for event in await life_until(await ready(chats), AdaptersEvent)]
    assert kinds == ["load", "ready", "adapters"]


async def test_an_answer_streams_and_ends_with_its_provenance(chats: Chats, tmp_path: Path) -> None:
    client = await ready(chats)
    (tmp_path / "pirate").mkdir()
    info = await client.load_adapter(str(tmp_path / "pirate"))
    finish = await answer(client, "hello there", "pirate:0.5", temperature=0.3, max_tokens=5)
    assert (finish.text, finish.token_ids, finish.adapters) == ("arr: hello there", [1, 2, 3, 0], "pirate:0.5")
    provenance = finish.provenance
    assert [(a.name, a.digest, a.weight) for a in provenance.adapters] == [("pirate", info.digest, 0.5)]
    assert (provenance.model, provenance.base_digest, provenance.template_digest) == ("fake", "b" * 64, "f" * 64)
    assert (provenance.sampling.temperature, provenance.sampling.seed, provenance.kv_policy) == (0.3, None, "exact")
    assert (provenance.attn_implementation, provenance.attn_reason) == ("sdpa", "because this is a fake")
    assert provenance.versions.keys() == {"mp13", "python", "torch", "transformers"}


async def test_the_seed_that_was_drawn_is_in_the_provenance_and_one_given_is_kept(chats: Chats) -> None:
    client = await ready(chats)
    first, second = [(await answer(client, "hi")).provenance.seed for _ in range(2)]
    assert None not in (first, second)
    assert first != second
    assert (await answer(client, "hi", seed=5)).provenance.seed == 5


@pytest.mark.parametrize("text", ["line\u2028and\x85paragraph\u2029", "a\nb\r\nc\x0b\x1c", "\x1b[31m", "日本 🏴‍☠️"])
async def test_any_character_survives_the_way(chats: Chats, text: str) -> None:
    assert (await answer(await ready(chats), text)).text == f"echo: {text}"


async def test_adapters_are_loaded_listed_and_unloaded_and_every_chat_hears_of_it(
    chats: Chats, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pirate").mkdir()
    monkeypatch.chdir(tmp_path)
    client, other = await ready(chats), await ready(chats)
    async with aclosing(other.events()) as events:
        heard = (event async for event in events if isinstance(event, AdaptersEvent))
        assert (await anext(heard)).adapters == []
        info = await client.load_adapter("pirate", "arr")  # a relative path means the chat's folder
        assert await anext(heard) == AdaptersEvent(adapters=[info])
        assert await other.adapters() == [info]
        assert info.name == "arr"
        await other.unload_adapter("arr")
        assert (await anext(heard)).adapters == []
    assert await client.adapters() == []


def said(text: str) -> tuple[Message, ...]:
    return (Message(role="user", content=text),)


async def load(client: EngineClient, folder: Path, name: str) -> None:
    (folder / name).mkdir()
    await client.load_adapter(str(folder / name))


async def cut_off(client: EngineClient, before: int, count: int) -> bool:
    """Whether the engine soon says that `count` more requests than `before` were cut off."""
    for _ in range(100):
        if int((await answer(client, "aborted")).text) - before == count:
            return True
        await asyncio.sleep(0.02)
    return False


async def test_what_writes_an_answer_is_known_before_its_end_and_its_end_says_the_same(
    chats: Chats, tmp_path: Path
) -> None:
    client = await ready(chats)
    await load(client, tmp_path, "templated")
    events = [event async for event in client.generate(asking("hi", "templated:0.5"))]
    assert isinstance(events[0], StartedEvent)
    assert isinstance(events[-1], FinishEvent)
    assert events[0].provenance == events[-1].provenance
    assert events[0].provenance.template_from == "templated"
    assert events[0].provenance.seed is not None


async def test_a_prompt_is_counted_before_it_is_sent_also_while_an_answer_runs(chats: Chats) -> None:
    client = await ready(chats)
    running = client.generate(asking("count 1000", max_tokens=1000))
    async with aclosing(running):
        await anext(running)
        report = await client.count(CountRequest(messages=said("three words here")))
    assert (report.prompt_tokens, report.context_limit) == (7, 512)
    with pytest.raises(MixError, match="'nobody' is not loaded"):
        await client.count(CountRequest(messages=said("hi"), adapters="nobody"))


async def test_an_answer_that_was_cut_off_goes_on(chats: Chats) -> None:
    client = await ready(chats)
    cut = await answer(client, "well met", max_tokens=2)
    begun = Message(role="assistant", content=cut.text, token_ids=tuple(cut.token_ids))
    events = [event async for event in client.generate(GenerateRequest(messages=(*said("well met"), begun)))]
    *_, end = events
    assert isinstance(end, FinishEvent)
    assert ["".join(event.text for event in events if isinstance(event, TokenEvent)), end.text] == [
        " met",
        "echo: well met",
    ]
    assert (end.token_ids, end.provenance.continued_at, end.metrics.generated_tokens) == ([1, 2, 3, 0], 2, 1)


async def test_the_kv_policy_is_that_of_the_request_else_that_of_the_engine(chats: Chats) -> None:
    client = await ready(chats)
    for policy, used in (("keep", "keep"), ("exact", "exact"), (None, "exact")):
        *_, end = [event async for event in client.generate(asking("hi").model_copy(update={"kv_policy": policy}))]
        assert isinstance(end, FinishEvent)
        assert end.provenance.kv_policy == used


async def test_several_mixes_answer_one_prompt_side_by_side_each_with_its_provenance(
    chats: Chats, tmp_path: Path
) -> None:
    client = await ready(chats)
    await load(client, tmp_path, "pirate")
    request = CompareRequest(messages=said("well met"), mixes=("base", "pirate:0.5", "pirate"))
    events = [event async for event in client.compare(request)]
    tokens = [event for event in events if isinstance(event, TokenEvent)]
    assert [event.index for event in tokens] == [0, 1, 2] * 3
    texts = ["".join(event.text for event in tokens if event.index == index) for index in range(3)]
    ends = {event.index: event for event in events if isinstance(event, FinishEvent)}
    assert texts == ["echo: well met", "arr: well met", "arr: well met"] == [ends[index].text for index in range(3)]
    started = {event.index: event.provenance for event in events if isinstance(event, StartedEvent)}
    assert started == {index: end.provenance for index, end in ends.items()}
    assert [[member.weight for member in ends[index].provenance.adapters] for index in range(3)] == [[], [0.5], [1.0]]


async def test_a_comparison_with_a_mix_that_cannot_answer_is_refused_whole(chats: Chats) -> None:
    client = await ready(chats)
    with pytest.raises(MixError, match="'nobody' is not loaded"):
        async for _ in client.compare(CompareRequest(messages=said("hi"), mixes=("base", "nobody"))):
            pass


async def test_leaving_a_comparison_aborts_all_its_answers(chats: Chats) -> None:
    client = await ready(chats)
    before = int((await answer(client, "aborted")).text)
    request = CompareRequest(messages=said("count 1000"), mixes=("base", "base", "base"))
    async with aclosing(client.compare(request)) as events:
        while (await anext(events)).index < 2:
            pass
    assert await cut_off(client, before, 3)


async def test_a_prefill_returns_when_it_is_done_and_ends_when_it_is_cancelled(chats: Chats) -> None:
    client = await ready(chats)
    await client.prefill(PrefillRequest(messages=said("hi")))
    with pytest.raises(MixError, match="'nobody' is not loaded"):
        await client.prefill(PrefillRequest(messages=said("hi"), adapters="nobody"))
    before = int((await answer(client, "aborted")).text)
    waiting = asyncio.create_task(client.prefill(PrefillRequest(messages=said("wait"))))
    await asyncio.sleep(0.2)
    waiting.cancel()
    assert await cut_off(client, before, 1)


async def test_a_score_tells_how_each_mix_judges_each_token(chats: Chats, tmp_path: Path) -> None:
    client = await ready(chats)
    await load(client, tmp_path, "pirate")
    mixes = ("pirate", "base")
    report = await client.score(ScoreRequest(prompt=said("hi"), answer=(7, 9), mixes=mixes))
    assert (report.token_ids, report.texts) == ((7, 9), (" 7", " 9"))
    assert [[score.logprob for score in scores] for scores in report.scores] == [[-1, -1], [-2, -2]]
    assert report.best_texts[1] == (" base", " base")
    for prompt in ("Once", None):
        report = await client.score(ScoreRequest(prompt=prompt, answer="upon a time", mixes=mixes))
        assert "".join(report.texts) == "upon a time"


async def test_what_the_engine_finds_out_later_about_an_adapter_is_told_and_stands_in_the_provenance(
    chats: Chats, tmp_path: Path
) -> None:
    client, other = await ready(chats), await ready(chats)
    async with aclosing(other.events()) as events, asyncio.timeout(5):
        heard = (event.adapters async for event in events if isinstance(event, AdaptersEvent))
        assert await anext(heard) == []
        await load(client, tmp_path, "idle")
        assert [info.effect for info in await anext(heard)] == [None]
        (idle,) = await anext(heard)
        assert idle.effect == 0.0
        while known_effects("b" * 64) != {idle.digest: 0.0}:  # it is kept for lists, under the base's digest
            await asyncio.sleep(0.01)
    assert (await answer(client, "hi", "idle")).provenance.no_effect == ("idle",)


async def test_errors_keep_their_kind_and_sentence_on_the_way(chats: Chats) -> None:
    client = await ready(chats)
    for refused, error, sentence in (
        (answer(client, "hi", "pirate"), MixError, "adapter 'pirate' is not loaded; load it first"),
        (answer(client, "hi", "a:x"), MixError, "'a:x' is not a mix"),
        (answer(client, "too long"), ContextError, "the prompt has 600 tokens and the context 512"),
        (client.load_adapter("/nowhere"), AdapterError, "/nowhere is not a folder"),
        (client.unload_adapter("pirate"), AdapterError, "adapter 'pirate' is not loaded"),
        (client.unload_adapter("../health"), MixError, "cannot name an adapter"),
        (answer(client, "fail late"), Mp13Error, "the engine met an unexpected ZeroDivisionError"),
    ):
        with pytest.raises(Mp13Error, match=sentence) as caught:
            await refused
        assert type(caught.value) is error
    assert (await answer(client, "hi")).text == "echo: hi"


async def test_an_engine_tells_whether_another_could_run_and_goes_on(chats: Chats) -> None:
    client = await ready(chats)
    await client.check(EngineConfig("fake", attn_implementation="sdpa"))
    with pytest.raises(UnsupportedError, match="'reference' cannot be used: it is not installed; pip install it"):
        await client.check(EngineConfig("fake", attn_implementation="reference"))
    assert (await answer(client, "hi")).text == "echo: hi"


async def test_a_request_that_cannot_be_read_is_refused_with_the_field(chats: Chats) -> None:
    client = await ready(chats)
    response = await client._http.post("/v1/mp13/generate", content='{"messages": 3}')
    assert response.status_code == 400
    failed = FailedEvent.model_validate_json(response.content)
    assert failed.code == "ConfigError"
    assert "messages" in failed.message
    assert (await client._http.get("/v1/mp13/nothing")).status_code == 404


async def test_health_and_events_answer_while_the_model_loads(chats: Chats) -> None:
    client = await chats.open("slow")
    async with asyncio.timeout(3):
        assert (await client.health()).status == "loading"
        assert isinstance((await life_until(client, LoadEvent))[0], LoadEvent)


async def test_a_prompt_sent_while_the_model_loads_waits_for_it(chats: Chats) -> None:
    client = await chats.open(seed=2)
    early = asyncio.create_task(answer(client, "hi"))
    assert (await early).text == "echo: hi"


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        ("broken", "'broken' has no weights; choose another model"),
        ("buggy", r"buggy could not be loaded \(ZeroDivisionError: division by zero\)"),
    ],
)
async def test_a_model_that_cannot_be_loaded_says_why_to_events_and_prompts(
    chats: Chats, model: str, sentence: str
) -> None:
    client = await chats.open(model)
    with pytest.raises(ModelError, match=sentence):
        await answer(client, "hi")
    failed = (await life_until(client, FailedEvent))[-1]
    assert isinstance(failed, FailedEvent)
    assert failed.code == "ModelError"
    assert (await client.health()).status == "failed"


async def test_leaving_an_answer_early_aborts_it_before_and_after_its_first_token(chats: Chats) -> None:
    client = await ready(chats)
    before = int((await answer(client, "aborted")).text)
    async with aclosing(client.generate(asking("count 1000", max_tokens=1000))) as events:
        await anext(events)
    waiting = asyncio.create_task(answer(client, "wait"))
    await asyncio.sleep(0.2)
    waiting.cancel()
    assert await cut_off(client, before, 2)


async def test_answers_of_two_chats_run_side_by_side(chats: Chats) -> None:
    one, two = await ready(chats), await ready(chats)
    long = asyncio.create_task(answer(one, "count 30"))
    assert (await answer(two, "hi")).text == "echo: hi"
    assert not long.done()
    assert (await long).text.endswith("29 ")
