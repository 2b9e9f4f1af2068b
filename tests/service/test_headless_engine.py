"""The whole road: session, socket, engine process, and back."""

import asyncio
import io
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import aclosing
from functools import partial
from pathlib import Path

import pytest
import pytest_asyncio

from mp13.chat.cli import mp13chat
from mp13.chat.conversation.session import ChatSession
from mp13.chat.conversation.turn import AnswerDone, EngineReady, SessionEvent, TextDelta
from mp13.chat.settings.load import load_settings
from mp13.library.paths import adapters_dir
from mp13.service import launcher
from mp13.service.client import EngineGone, EngineStopped
from tests.fakes.command import Command
from tests.fakes.fake_adapter import make_adapter
from tests.service.conftest import FAKE, engine_pids, is_alive, seconds_until_gone


@pytest_asyncio.fixture
async def session() -> AsyncIterator[ChatSession]:
    """A session with a process of its own around the fake engine."""
    make_adapter("pirate")
    settings = load_settings({"model": "org/fake", "adapter": "pirate"})
    opened = ChatSession.open(settings, connect=partial(launcher.connect, engine=FAKE))
    yield opened
    await opened.close()


async def ask(session: ChatSession, text: str) -> list[SessionEvent]:
    return [event async for event in session.ask(text)]


def text_of(events: list[SessionEvent]) -> str:
    assert isinstance(events[-1], AnswerDone)
    return events[-1].turn.text


async def test_killing_the_engine_leaves_the_chat_alive_and_the_next_prompt_answered(session: ChatSession) -> None:
    assert text_of(await ask(session, "one")) == "arr: one"
    assert session.engine is not None
    first = session.engine.pid
    os.kill(first, signal.SIGKILL)
    events = await ask(session, "two")
    assert text_of(events) == "arr: two"
    assert any(isinstance(event, EngineReady) for event in events)
    assert session.engine.pid != first


async def test_an_engine_that_is_killed_in_the_middle_leaves_the_partial_answer(session: ChatSession) -> None:
    with pytest.raises(EngineGone):
        await ask(session, "crash")
    assert (session.turns[-1].text, session.turns[-1].finish_reason) == ("one two ", "abort")
    assert text_of(await ask(session, "again")) == "arr: again"


async def test_an_engine_that_is_stopped_before_it_said_a_word_is_not_started_again_unasked(
    session: ChatSession, runtime: Path
) -> None:
    assert text_of(await ask(session, "one")) == "arr: one"
    waiting = asyncio.create_task(ask(session, "wait"))
    await asyncio.sleep(0.3)
    await session.client.stop("it was stopped with `mp13 stop`")
    with pytest.raises(EngineStopped, match="it was stopped with `mp13 stop`; send the prompt again"):
        await waiting
    assert session.engine is None
    for pid in engine_pids(runtime.parent):
        assert await asyncio.to_thread(seconds_until_gone, pid) < 4
    assert text_of(await ask(session, "two")) == "arr: two"


async def test_leaving_an_answer_stops_it_in_the_engine(session: ChatSession) -> None:
    async with aclosing(session.ask("count 1000")) as events:
        async for event in events:
            if isinstance(event, TextDelta):
                break
    assert session.turns[-1].finish_reason == "abort"
    assert text_of(await ask(session, "aborted")) == "1"


async def test_the_engine_ends_with_the_session(session: ChatSession) -> None:
    await ask(session, "hi")
    assert session.engine is not None
    pid = session.engine.pid
    assert is_alive(pid)
    await session.close()
    assert seconds_until_gone(pid) < 5


def test_a_real_model_answers_a_script_under_base_a_b_a_and_a_mix(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from tests.engine.tiny_models import tiny_adapter, tiny_model

    model = tiny_model(tmp_path / "model")
    for seed, name in enumerate(("a", "b"), start=1):
        tiny_adapter(adapters_dir() / name, model, seed=seed)
    script = tmp_path / "script"
    script.write_text(
        "hello there\n/adapter a\ngo on\n/adapter b\nand then\n/adapter a\nwhat next\n/adapter a:0.5+b\nend\n"
    )
    flags = ("--model", str(model), "--script", str(script), "--json")
    sampling = ("--set", "max_tokens=12", "--set", "temperature=0")
    result = Command(monkeypatch, capsys).run(mp13chat.main, *flags, *sampling, stdin=io.StringIO())
    answers = [json.loads(line) for line in result.out.splitlines()]
    assert (result.code, [answer["adapters"] for answer in answers]) == (0, ["base", "a", "b", "a", "a:0.5+b"])
    used = [{member["name"]: member["weight"] for member in answer["provenance"]["adapters"]} for answer in answers]
    assert used == [{}, {"a": 1.0}, {"b": 1.0}, {"a": 1.0}, {"a": 0.5, "b": 1.0}]
    assert [answer["metrics"]["cached_tokens"] > 0 for answer in answers] == [False, False, False, True, False]
    assert answers[1]["provenance"]["adapters"] == answers[3]["provenance"]["adapters"]
    assert all(answer["metrics"]["generated_tokens"] == len(answer["token_ids"]) for answer in answers)


def test_a_real_model_compares_is_taken_apart_and_says_what_an_adapter_does_not_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from tests.engine.tiny_models import tiny_adapter, tiny_model

    model = tiny_model(tmp_path / "model")
    tiny_adapter(adapters_dir() / "a", model, seed=1)
    script = tmp_path / "script"
    script.write_text("/compare base a:0.5 a hello there\n/keep a\n/diff\n/diff a:0.5\n/adapter a:0\ngo on\n")
    flags = ("--model", str(model), "--script", str(script), "--json")
    sampling = ("--set", "max_tokens=8", "--set", "temperature=0")
    result = Command(monkeypatch, capsys).run(mp13chat.main, *flags, *sampling, stdin=io.StringIO())
    assert result.code == 0, result.err
    *answers, from_base, from_half, again = [json.loads(line) for line in result.out.splitlines()]
    assert [answer["adapters"] for answer in answers] == ["base", "a:0.5", "a"]
    assert [[m["weight"] for m in answer["provenance"]["adapters"]] for answer in answers] == [[], [0.5], [1.0]]
    assert len({answer["provenance"]["template_digest"] for answer in answers}) == 1
    assert [token["token_id"] for token in from_base["tokens"]] == answers[2]["token_ids"]
    assert "".join(token["text"] for token in from_base["tokens"]) == answers[2]["text"]
    assert from_base["mean_kl"] > from_half["mean_kl"] > 0
    assert again["adapters"] == "a:0"
    assert "no_effect" in again["provenance"]
