"""A session that compares, keeps, takes apart, warms up and reloads; the engine is scripted."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from mp13.chat.conversation import idle
from mp13.chat.conversation.badge import badge
from mp13.chat.conversation.session import ChatSession
from mp13.chat.conversation.turn import AnswerDone, SessionEvent, TextDelta
from mp13.chat.settings.load import load_settings
from mp13.errors import ConfigError, ContextError, MixError, Mp13Error
from mp13.service.client import EngineGone
from tests.fakes.fake_adapter import make_adapter
from tests.fakes.fake_client import FakeHost


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> FakeHost:
    monkeypatch.setattr(idle, "_BEFORE_S", 0.0)
    return FakeHost()


@pytest_asyncio.fixture
async def session(host: FakeHost, tmp_path: Path) -> AsyncIterator[ChatSession]:
    for name in ("pirate", "json"):
        make_adapter(name)
    make_adapter("idle")
    opened = ChatSession.open(load_settings({"model": str(tmp_path)}), connect=host)  # type: ignore[arg-type]
    yield opened
    await opened.close()


async def compare(session: ChatSession, *mixes: str, text: str | None = "hi") -> list[SessionEvent]:
    return [event async for event in session.compare(mixes, text)]


async def ask(session: ChatSession, text: str = "hi") -> None:
    async for _ in session.ask(text):
        pass


async def until(condition: object) -> None:
    async with asyncio.timeout(5):
        while not condition():  # type: ignore[operator]
            await asyncio.sleep(0)


def reopened(session: ChatSession, host: FakeHost) -> ChatSession:
    return ChatSession.open(session.settings, "latest", host)  # type: ignore[arg-type]


class TestCompare:
    async def test_several_mixes_answer_one_prompt_and_the_first_is_kept(
        self, session: ChatSession, host: FakeHost
    ) -> None:
        host.answers, host.order = [["pi", "rate"], ["base"]], [1, 0]
        events = await compare(session, "base", "pirate:0.5")
        assert [event.index for event in events if isinstance(event, TextDelta)] == [1, 1, 0]
        assert [event.index for event in events if isinstance(event, AnswerDone)] == [1, 0]
        assert [(turn.mix, turn.text) for turn in session.answers] == [("base", "base"), ("pirate:0.5", "pirate")]
        assert [turn.text for turn in session.turns] == ["hi", "base"]
        (request,) = host.comparisons
        assert (request.mixes, request.sampling.seed is not None) == (("base", "pirate:0.5"), True)
        assert {turn.parent_id for turn in session.answers} == {session.turns[0].id}
        assert session.mix == "base"

    async def test_the_last_prompt_can_be_answered_again_beside_the_answer_it_has(
        self, session: ChatSession, host: FakeHost
    ) -> None:
        host.answers = [["old"], ["new base"], ["new pirate"]]
        await ask(session)
        await compare(session, "base", "pirate", text=None)
        assert [turn.text for turn in session.answers] == ["old", "new base", "new pirate"]
        assert [turn.text for turn in session.turns] == ["hi", "new base"]
        assert [message.content for message in host.comparisons[0].messages] == ["hi"]

    async def test_another_answer_is_kept_and_the_conversation_goes_on_from_it_here_and_when_resumed(
        self, session: ChatSession, host: FakeHost
    ) -> None:
        host.answers = [["of base"], ["of pirate"]]
        await compare(session, "base", "pirate")
        assert session.tree.keep("2").text == "of pirate"
        again = reopened(session, host)
        assert [turn.text for turn in again.turns] == ["hi", "of pirate"]
        listed = (await again.command("/keep")).message.splitlines()
        assert [line for line in listed if "(kept)" in line] == ["2  pirate  (kept)  of pirate"]
        assert again.tree.keep("base").text == "of base"
        assert [turn.text for turn in reopened(session, host).turns] == ["hi", "of base"]
        session.tree.keep("pirate")
        await ask(session, "go on")
        assert [message.content for message in host.requests[-1].messages] == ["hi", "of pirate", "go on"]
        assert [turn.text for turn in reopened(session, host).turns] == ["hi", "of pirate", "go on", "an answer"]
        await again.close()

    async def test_what_cannot_be_kept_is_refused(self, session: ChatSession) -> None:
        with pytest.raises(ConfigError, match=r"no answer '1'.*there: none"):
            session.tree.keep("1")
        await compare(session, "base", "pirate")
        for which in ("0", "3", "json", "²", "nonsense!"):
            with pytest.raises(ConfigError, match=r"there: 1 \(base\), 2 \(pirate\)"):
                session.tree.keep(which)
        assert session.turns[-1].mix == "base"

    @pytest.mark.parametrize(
        ("mixes", "error", "sentence"),
        [
            (("base",), ConfigError, "two different mixes"),
            (("pirate", "pirate:1.0"), ConfigError, "pirate, pirate cannot be compared"),
            (("base", "a+"), MixError, "is not a mix"),
        ],
    )
    async def test_what_cannot_be_compared_changes_nothing(
        self, session: ChatSession, mixes: tuple[str, ...], error: type[Exception], sentence: str
    ) -> None:
        with pytest.raises(error, match=sentence):
            await compare(session, *mixes)
        with pytest.raises(ConfigError, match="no prompt to answer"):
            await compare(session, "base", "pirate", text=None)
        assert session.turns == []

    async def test_an_error_of_one_keeps_what_came_of_the_others(self, session: ChatSession, host: FakeHost) -> None:
        host.answers = [["whole"], ["half ", ContextError("too long")]]
        with pytest.raises(ContextError):
            await compare(session, "base", "pirate")
        assert [(turn.text, turn.finish_reason) for turn in session.answers] == [("whole", "stop"), ("half ", "abort")]
        assert [turn.text for turn in session.turns] == ["hi", "whole"]

    async def test_an_engine_that_dies_before_a_word_is_restarted_and_one_that_dies_later_is_not(
        self, session: ChatSession, host: FakeHost
    ) -> None:
        host.answers = [[EngineGone("gone")], ["of base"], ["of pirate"]]
        await compare(session, "base", "pirate")
        assert (len(host.clients), [turn.text for turn in session.answers]) == (2, ["of base", "of pirate"])
        host.answers = [["of base"], [EngineGone("gone")]]
        with pytest.raises(EngineGone):
            await compare(session, "base", "pirate")
        assert [turn.text for turn in session.answers] == ["of base"]

    async def test_the_kv_policy_of_the_settings_goes_with_every_prompt(
        self, session: ChatSession, host: FakeHost
    ) -> None:
        await ask(session)
        await session.change_settings(kv_policy="keep")
        await ask(session)
        await compare(session, "base", "pirate")
        assert [request.kv_policy for request in host.requests] == ["exact", "keep"]
        assert host.comparisons[0].kv_policy == "keep"
        assert len(host.clients) == 1
        assert badge(session.turns[-1]).startswith("base · keep · ")


class TestWhatACutOffAnswerKnows:
    async def test_an_answer_that_is_stopped_keeps_what_was_writing_it(
        self, session: ChatSession, host: FakeHost
    ) -> None:
        host.answers = [["half ", asyncio.Event()]]
        await session.set_mix("pirate:0.5")
        async with aclosing(session.ask("hi")) as events:
            async for event in events:
                if isinstance(event, TextDelta):
                    break
        answer = reopened(session, host).turns[-1]
        assert (answer.text, answer.finish_reason, answer.metrics) == ("half ", "abort", None)
        assert answer.provenance is not None
        assert [(member.name, member.weight) for member in answer.provenance.adapters] == [("pirate", 0.5)]


class TestDiff:
    async def test_the_last_answer_is_judged_under_its_mix_and_the_base(
        self, session: ChatSession, host: FakeHost
    ) -> None:
        session.set_system("be brief")
        await session.set_mix("pirate")
        await ask(session)
        await session.set_mix("json")
        diff = await session.diff()
        (request,) = host.scored
        assert (request.mixes, request.answer) == (("pirate", "base"), session.turns[-1].token_ids)
        assert isinstance(request.prompt, tuple)
        assert [message.content for message in request.prompt] == ["be brief", "hi"]
        assert (diff.mix, diff.other, len(diff.tokens), diff.note) == ("pirate", "base", 3, "")
        assert (await session.diff("json:0.5")).other == "json:0.5"
        assert {name for name, _ in host.clients[0].loads} == {"pirate", "json"}

    async def test_an_adapter_that_changed_since_is_named(self, session: ChatSession) -> None:
        await session.set_mix("pirate")
        await ask(session)
        make_adapter("pirate", "others")
        await session.reload()
        assert (await session.diff()).note.startswith("pirate changed since")

    async def test_without_an_answer_or_beside_itself_there_is_nothing_to_see(self, session: ChatSession) -> None:
        with pytest.raises(ConfigError, match="no answer to take apart"):
            await session.diff()
        await ask(session)
        for other in (None, "base"):
            with pytest.raises(ConfigError, match="base's own; name another mix"):
                await session.diff(other)


class TestWarming:
    async def test_choosing_a_mix_computes_the_history_under_it(self, session: ChatSession, host: FakeHost) -> None:
        session.set_system("be brief")
        await ask(session)
        await session.set_mix("pirate")
        await until(lambda: host.prefills)
        assert host.prefills[0].adapters == "pirate"
        assert [message.content for message in host.prefills[0].messages] == ["be brief", "hi", "an answer"]
        assert host.prefills[0].messages[-1].token_ids == session.turns[-1].token_ids

    async def test_in_idle_time_the_mixes_of_this_conversation_are_warmed_the_last_first(
        self, session: ChatSession, host: FakeHost
    ) -> None:
        for mix in ("pirate", "json", "base"):
            await session.set_mix(mix)
            await ask(session)
        host.prefills.clear()
        await session.set_mix("json")
        await until(lambda: len(host.prefills) == 3)
        await asyncio.sleep(0.01)
        assert [request.adapters for request in host.prefills] == ["json", "base", "pirate"]

    async def test_no_more_is_warmed_than_the_cache_holds(self, session: ChatSession, host: FakeHost) -> None:
        for mix in ("pirate", "json"):
            await session.set_mix(mix)
            await ask(session)
        assert session.engine is not None
        session._connection.engine = session.engine.model_copy(update={"kv_cache_tokens": 30})
        host.prefills.clear()
        await session.set_mix("base")
        await until(lambda: host.prefills)
        await asyncio.sleep(0.01)
        assert [request.adapters for request in host.prefills] == ["base"]

    async def test_a_prompt_ends_it_at_once(self, session: ChatSession, host: FakeHost) -> None:
        await ask(session)
        host.slow = asyncio.Event()
        host.prefills.clear()
        await session.set_mix("pirate")
        await until(lambda: host.prefills)
        assert host.dropped == 0
        await ask(session)
        assert host.dropped >= 1

    async def test_nothing_is_warmed_before_an_answer_nor_where_any_cache_will_do(
        self, session: ChatSession, host: FakeHost
    ) -> None:
        async for _ in session.start():
            pass
        await session.set_mix("pirate")
        await session.change_settings(kv_policy="keep")
        await ask(session)
        await session.set_mix("json")
        await asyncio.sleep(0.02)
        assert host.prefills == []


class TestRemarks:
    async def test_an_adapter_without_effect_is_called_so_in_remark_and_badge(self, session: ChatSession) -> None:
        make_adapter("idle", "idle")
        await session.set_mix("idle")
        await ask(session)
        assert [(remark.name, remark.label) for remark in session.remarks] == [("idle", "no effect")]
        assert badge(session.turns[-1]).startswith("idle (no effect) · 38 tok/s")
        mixed = replace(session.turns[-1], mix="idle+pirate")
        assert badge(mixed).startswith("idle+pirate (idle: no effect) · ")
        await session.set_mix("pirate")
        assert session.remarks == []

    async def test_a_changed_folder_is_noticed_used_when_asked_and_no_sooner(
        self, session: ChatSession, host: FakeHost
    ) -> None:
        await session.set_mix("pirate")
        await ask(session)
        assert session.remarks == []
        assert await session.reload() == []
        await session.command("/adapters tag pirate sea")
        assert session.remarks == []
        make_adapter("pirate", "other weights")
        await ask(session)
        assert [(remark.name, remark.label) for remark in session.remarks] == [("pirate", "changed on disk")]
        assert len(host.clients[0].loads) == 1
        assert await session.reload() == ["pirate"]
        assert (session.remarks, len(host.clients[0].loads)) == ([], 2)

    async def test_a_folder_that_is_gone_is_noticed_and_the_loaded_adapter_goes_on(self, session: ChatSession) -> None:
        await session.set_mix("pirate")
        await ask(session)
        for file in (folder := make_adapter("pirate")).iterdir():
            file.unlink()
        folder.rmdir()
        assert [remark.label for remark in session.remarks] == ["changed on disk"]
        with pytest.raises(Mp13Error, match="no adapter 'pirate'"):
            await session.reload()
        await ask(session)
        assert session.turns[-1].mix == "pirate"
