"""Making an answer again from its provenance, with a scripted engine: what is asked, compared and told."""

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from mp13.chat.cli.headless import Line, run_headless
from mp13.chat.conversation.replay import mix_by_digest
from mp13.errors import AdapterError, ConfigError
from mp13.service.schema import AdapterInfo, Provenance, SamplingParams, UsedAdapter
from tests.fakes.fake_adapter import make_adapter
from tests.unit.test_session import Chats, ask


def provenance(*adapters: UsedAdapter) -> Provenance:
    return Provenance(
        model="m", base_digest="b", dtype="float32", device="cpu", quantization="none", model_impl="native",
        attn_implementation="sdpa", adapters=adapters, kv_policy="exact", template_digest="t",
        sampling=SamplingParams(), seed=1, versions={},
    )  # fmt: skip


@pytest_asyncio.fixture
async def chats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Chats]:
    monkeypatch.setenv("MP13_DATA_DIR", str(tmp_path / "data"))
    opened = Chats(tmp_path)
    yield opened
    for session in opened.sessions:
        await session.close()


async def test_the_same_prompt_mix_sampling_and_seed_are_asked_again(chats: Chats) -> None:
    make_adapter("pirate")
    session = chats.open(temperature="0.7")
    await session.set_mix("pirate:0.3")
    await ask(session, "one")
    turn = await ask(session, "two")
    await ask(session, "three")
    replay = await session.replay(turn)
    first, again = chats.host.requests[1], chats.host.requests[-1]
    assert (again.messages, again.adapters) == (first.messages, first.adapters)
    assert replace(again.sampling, max_tokens=first.sampling.max_tokens) == first.sampling
    assert replay.is_same
    assert replay.summary == "replay of turn 4: same, 3 tokens"


async def test_nothing_is_stored_by_it(chats: Chats) -> None:
    session = chats.open()
    turn = await ask(session, "one")
    await session.replay(turn)
    assert session.turns == [session.turns[0], turn]
    assert session.store is not None
    assert len(session.store.tree(session.conversation_id).turns) == 2


async def test_the_first_difference_is_told_with_both_tokens_and_their_gap(chats: Chats) -> None:
    session = chats.open()
    turn = replace(await ask(session, "one"), token_ids=(1, 7, 0))
    session._conversation._known[turn.id] = turn
    replay = await session.replay(turn)
    found = replay.difference
    assert found is not None
    assert (found.position, found.token_id, found.replayed_id) == (1, 7, 2)
    assert (found.text, found.replayed_text) == ("t7 ", "t2 ")
    assert [request.answer for request in chats.host.scored] == [(1, 7), (1, 2)]
    assert found.gap == pytest.approx(found.logprob - found.replayed_logprob)
    assert "token 2 of 3 differs" in replay.summary
    assert replay.as_json()["first_difference"]["position"] == 1


async def test_what_differs_of_the_setup_is_told(chats: Chats) -> None:
    session = chats.open()
    turn = await ask(session, "one")
    assert turn.provenance is not None
    older = turn.provenance.model_copy(update={"dtype": "bfloat16", "base_digest": "c", "versions": {"torch": "2.0"}})
    replay = await session.replay(replace(turn, provenance=older))
    assert {(change.what, change.was, change.now) for change in replay.changes} == {
        ("dtype", "bfloat16", "float32"),
        ("base digest", "c", "b"),
        ("version of torch", "2.0", "unknown"),
    }


def test_adapters_are_found_by_their_content_whatever_they_are_called() -> None:
    made = provenance(UsedAdapter(name="pirate", digest="d" * 64, weight=0.7))
    loaded = [AdapterInfo("pirate", "e" * 64, "lora", 8, (), 1), AdapterInfo("sailor", "d" * 64, "lora", 8, (), 1)]
    assert mix_by_digest(made, loaded) == "sailor:0.7"
    assert mix_by_digest(made, loaded[:1]) == "pirate:0.7"


async def test_an_adapter_that_changed_is_told(chats: Chats) -> None:
    make_adapter("pirate")
    session = chats.open()
    await session.set_mix("pirate")
    turn = await ask(session, "one")
    make_adapter("pirate", "others, longer")
    await session.reload("pirate")
    replay = await session.replay(turn)
    assert [change.what for change in replay.changes] == ["adapter pirate"]


async def test_an_adapter_that_is_gone_is_named(chats: Chats) -> None:
    session = chats.open()
    turn = await ask(session, "one")
    assert turn.provenance is not None
    gone = provenance(UsedAdapter(name="gone", digest="d" * 64, weight=1.0))
    with pytest.raises(AdapterError, match="gone"):
        await session.replay(replace(turn, provenance=gone))


async def test_a_prompt_or_an_answer_of_unknown_making_cannot_be_replayed(chats: Chats) -> None:
    session = chats.open()
    turn = await ask(session, "one")
    with pytest.raises(ConfigError, match="only an answer"):
        await session.replay(session.turns[0])
    with pytest.raises(ConfigError, match="was not stored"):
        await session.replay(replace(turn, provenance=None))


async def test_a_script_prints_details_and_replay_as_json(chats: Chats, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [Line("one", "s:1"), Line("/details", "s:2"), Line("/replay", "s:3")]
    await run_headless(chats.open(), lines, as_json=True)
    _, details, replay = map(json.loads, capsys.readouterr().out.splitlines())
    assert details["number"] == 2
    assert details["provenance"]["dtype"] == "float32"
    assert details["metrics"]["generated_tokens"] == 2
    assert (replay["replay_of"], replay["same"], replay["tokens"]) == (2, True, 3)


async def test_a_script_prints_them_as_lines_too(chats: Chats, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [Line("one", "s:1"), Line("/details 2", "s:2"), Line("/replay 2", "s:3")]
    await run_headless(chats.open(), lines, as_json=False)
    out = capsys.readouterr().out
    assert "base digest" in out
    assert "replay of turn 2: same, 3 tokens" in out
