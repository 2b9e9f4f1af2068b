"""The screen over the real session and store, with a scripted engine behind them."""

import asyncio
from pathlib import Path

import pytest

from mp13.chat.conversation.session import ChatSession
from mp13.chat.settings.load import load_settings
from mp13.service.client import EngineGone
from tests.fakes.fake_adapter import make_adapter
from tests.fakes.fake_client import FakeHost
from tests.tui.conftest import chatting


@pytest.fixture
def model(tmp_path: Path) -> str:
    (tmp_path / "model").mkdir()
    return str(tmp_path / "model")


def opened(host: FakeHost, model: str, resume: str | None = None) -> ChatSession:
    return ChatSession.open(load_settings({"model": model}), resume, connect=host)  # type: ignore[arg-type]


class TestRealSession:
    async def test_a_conversation_under_two_adapters_and_their_mix_is_resumed_with_its_badges(self, model: str) -> None:
        make_adapter("pirate")
        make_adapter("json")
        host = FakeHost(["Arr, ", "matey!"], ['{"sea": ', "true}"], ["Both."])
        async with chatting(opened(host, model), size=(80, 40)) as chat:
            for mix, text in (("pirate", "one"), ("json", "two"), ("pirate:0.5+json:0.5", "three")):
                await chat.say(f"/adapter {mix}")
                await chat.say(text)
            await chat.sees("Arr, matey!", '{"sea": true}', "Both.", "●● json:0.5+pirate:0.5 · 38 tok/s · 12 cached")
            assert "/512 ctx" in chat.status
        async with chatting(opened(FakeHost(), model, "latest"), size=(80, 40)) as chat:
            await chat.sees("one", "● pirate · 38 tok/s", "● json · 38 tok/s", "●● json:0.5+pirate:0.5 · 38 tok/s")
            assert "json:0.5+pirate:0.5" in chat.status
        assert [request.adapters for request in host.requests] == ["pirate", "json", "json:0.5+pirate:0.5"]

    async def test_an_answer_stopped_with_esc_is_kept(self, model: str) -> None:
        host = FakeHost(["The half", asyncio.Event()])
        async with chatting(opened(host, model)) as chat:
            await chat.send("go")
            await chat.sees("The half")
            await chat.press("escape")
            await chat.sees("The half", "base · stopped")
        async with chatting(opened(FakeHost(), model, "latest")) as chat:
            await chat.sees("The half", "base · stopped")

    async def test_an_answer_that_was_cut_off_counts_at_once_and_after_a_resume(self, model: str) -> None:
        """A scripted engine counts a token a word, and four around each message."""
        make_adapter("pirate")
        host = FakeHost(["an ", "answer"], ["The half", asyncio.Event()])
        async with chatting(opened(host, model), size=(120, 24)) as chat:
            await chat.say("/adapter pirate")
            await chat.say("hello there")
            await chat.until(lambda: "22/512 ctx" in chat.status)  # as its metrics have it
            await chat.send("go")
            await chat.sees("The half")
            await chat.press("escape")
            await chat.until(lambda: "23/512 ctx" in chat.status)
            assert "tok/s" not in chat.status
        host = FakeHost()
        async with chatting(opened(host, model, "latest"), size=(120, 24)) as chat:
            await chat.until(lambda: "23/512 ctx" in chat.status)
            assert host.counted[-1].adapters == "pirate"
            await chat.say("/new")
            await chat.until(lambda: "0/512 ctx" in chat.status)

    async def test_exchanges_that_the_model_no_longer_reads_are_not_counted(self, model: str) -> None:
        async with chatting(opened(FakeHost(["an ", "answer"], ["two"]), model), size=(120, 24)) as chat:
            await chat.say("hello there")
            await chat.say("go on")
            await chat.until(lambda: "21/512 ctx" in chat.status)  # as its metrics have it
            await chat.say("/drop 1")
            await chat.until(lambda: "11/512 ctx" in chat.status)
            await chat.say("/drop 0")
            await chat.until(lambda: "21/512 ctx" in chat.status)

    async def test_another_model_counts_anew(self, model: str, tmp_path: Path) -> None:
        (tmp_path / "other").mkdir()
        async with chatting(opened(FakeHost(["an ", "answer"]), model), size=(120, 24)) as chat:
            await chat.say("hello there")
            await chat.until(lambda: "22/512 ctx" in chat.status)
            await chat.say(f"/set model={tmp_path / 'other'}")
            await chat.until(lambda: "12/512 ctx" in chat.status)
            await chat.say("/help")
            assert "12/512 ctx" in chat.status

    async def test_after_the_engine_died_in_an_answer_the_next_prompt_starts_another(self, model: str) -> None:
        host = FakeHost(["The half", EngineGone("the engine process has ended; send the prompt again")], ["Back."])
        async with chatting(opened(host, model)) as chat:
            await chat.say("go")
            await chat.sees("The half", "base · stopped", "the engine process has ended")
            await chat.say("again")
            await chat.sees("Back.", "base · 38 tok/s")
        assert len(host.clients) == 2

    async def test_an_engine_that_cannot_load_leaves_a_chat_that_can_be_typed_in(self, tmp_path: Path) -> None:
        (tmp_path / "broken").mkdir()
        async with chatting(opened(FakeHost(), str(tmp_path / "broken"))) as chat:
            await chat.sees("it has no weights; choose another model", "no engine")
            await chat.press("x")
            assert chat.prompt.text == "x"

    async def test_an_adapter_that_does_not_fit_leaves_the_one_before_it(self, model: str) -> None:
        make_adapter("pirate")
        make_adapter("strange", content="unfit")
        make_adapter("other", content="foreign")
        async with chatting(opened(FakeHost(), model)) as chat:
            await chat.say("/adapter pirate")
            await chat.say("/adapter strange")
            await chat.sees("'strange' does not fit this model")
            assert "● pirate" in chat.status
            await chat.say("/adapter other")
            await chat.sees("other: of another base")

    async def test_a_prompt_waits_for_the_engine_and_esc_gives_it_back(self, model: str) -> None:
        gate = asyncio.Event()
        async with chatting(opened(FakeHost(["Hello."], waits=gate), model), ready=False) as chat:
            await chat.sees("reading weights", "50%")
            await chat.send("hi")
            await chat.sees("waiting")
            await chat.press("escape")
            await chat.until(lambda: chat.prompt.text == "hi")
            await chat.press("enter")
            gate.set()
            await chat.sees("Hello.")


class TestAnotherEngine:
    async def test_a_setting_of_the_engine_starts_another_at_once_and_prompts_wait_for_it(self, model: str) -> None:
        host = FakeHost(["From the new one."])
        async with chatting(opened(host, model)) as chat:
            host.waits = asyncio.Event()
            await chat.send("/set attn_implementation=reference")
            await chat.sees("attn_implementation = reference; the engine starts anew with it")
            await chat.until(lambda: "reading weights" in chat.status)
            await chat.send("hello")
            await chat.until(lambda: len(host.clients) == 2)
            assert host.requests == []
            host.waits.set()
            await chat.sees("From the new one.")
            assert chat.session.engine is not None and chat.session.engine.attn_implementation == "reference"
        assert host.clients[0].closed

    async def test_what_cannot_run_is_a_sentence_and_the_engine_goes_on(self, model: str) -> None:
        host = FakeHost(["Still here."])
        host.unfit["reference"] = "attn_implementation = 'reference' cannot be used: pip install something"
        async with chatting(opened(host, model)) as chat:
            await chat.say("/set attn_implementation=reference")
            await chat.sees("pip install something")
            await chat.say("hello")
            await chat.sees("Still here.")
            assert chat.session.settings.attn_implementation == "auto"
        assert len(host.clients) == 1

    async def test_one_that_fails_gives_the_other_back_and_the_prompt_that_waited_its_answer(self, model: str) -> None:
        host = FakeHost(["From the old one."])
        host.breaks = "reference"
        async with chatting(opened(host, model), size=(80, 40)) as chat:
            host.waits = asyncio.Event()
            await chat.send("/set attn_implementation=reference")
            await chat.until(lambda: "reading weights" in chat.status)
            await chat.send("hello")
            host.waits.set()
            await chat.sees("it ran out of memory", "the engine that worked starts again", "From the old one.")
            assert "no engine" not in chat.status
            assert chat.session.settings.attn_implementation == "auto"

    async def test_the_last_of_several_changes_wins_while_an_engine_loads(self, model: str) -> None:
        host = FakeHost(["Done."])
        async with chatting(opened(host, model)) as chat:
            host.waits = asyncio.Event()
            await chat.send("/set attn_implementation=reference")
            await chat.until(lambda: "reading weights" in chat.status)
            await chat.send("/set attn_implementation=sdpa")
            await chat.until(lambda: len(host.clients) == 3)  # nobody waits for the second one to load
            host.waits.set()
            await chat.say("hello")
            await chat.sees("Done.")
        assert [client.config.attn_implementation for client in host.clients] == ["auto", "reference", "sdpa"]
        assert all(client.closed for client in host.clients)
