"""A conversation with a scripted engine: what the model reads, what is kept, and what survives."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path

import pytest
import pytest_asyncio

from mp13.chat.conversation import asking, connection
from mp13.chat.conversation.badge import badge, speed
from mp13.chat.conversation.session import ChatSession
from mp13.chat.conversation.store import ConversationStore
from mp13.chat.conversation.turn import (
    AnswerDone,
    Asked,
    EngineFailed,
    EngineReady,
    LoadProgress,
    SessionEvent,
    TextDelta,
    Turn,
)
from mp13.chat.settings.load import change_settings, load_settings
from mp13.errors import AdapterError, ConfigError, ContextError, MixError, ModelError, Mp13Error, UnsupportedError
from mp13.library.paths import adapters_dir
from mp13.library.starter import starter_dir
from mp13.service.client import EngineGone
from mp13.service.schema import AdapterInfo, Message
from tests.fakes.fake_adapter import make_adapter
from tests.fakes.fake_client import FakeHost


class Chats:
    """Opens sessions on one host and closes them after the test."""

    def __init__(self, folder: Path) -> None:
        self.host = FakeHost()
        self.sessions: list[ChatSession] = []
        self._model = folder / "model"
        self._model.mkdir()

    def open(self, resume: str | None = None, **flags: str) -> ChatSession:
        settings = load_settings({"model": str(self._model), **flags})
        self.sessions.append(ChatSession.open(settings, resume, connect=self.host))  # type: ignore[arg-type]
        return self.sessions[-1]


@pytest_asyncio.fixture
async def chats(tmp_path: Path) -> AsyncIterator[Chats]:
    opened = Chats(tmp_path)
    yield opened
    for session in opened.sessions:
        await session.close()


async def events_of(session: ChatSession, text: str) -> list[SessionEvent]:
    return [event async for event in session.ask(text)]


async def ask(session: ChatSession, text: str) -> Turn:
    done = (await events_of(session, text))[-1]
    assert isinstance(done, AnswerDone)
    return done.turn


async def until_text(session: ChatSession, text: str) -> asyncio.Task[Turn]:
    """A running answer of which some text has come."""
    started = asyncio.Event()

    async def run() -> Turn:
        async with aclosing(session.ask(text)) as events:
            async for event in events:
                if isinstance(event, TextDelta):
                    started.set()
        assert isinstance(event, AnswerDone)
        return event.turn

    task = asyncio.create_task(run())
    await started.wait()
    return task


def stored(session: ChatSession) -> list[Turn]:
    with ConversationStore() as store:
        return store.turns(session.conversation_id)


async def test_start_tells_progress_and_then_the_engine(chats: Chats) -> None:
    session = chats.open()
    events = [event async for event in session.start()]
    assert [type(event) for event in events] == [LoadProgress, EngineReady]
    assert session.engine is not None
    assert [type(event) async for event in session.start()] == [EngineReady]
    assert len(chats.host.clients) == 1


async def test_a_model_that_does_not_load_fails_the_start_and_the_prompt_but_not_the_session(chats: Chats) -> None:
    session = chats.open(model="org/broken")
    events = [event async for event in session.start()]
    assert isinstance(events[-1], EngineFailed)
    assert "no weights" in events[-1].message
    with pytest.raises(ModelError, match="no weights"):
        await ask(session, "hi")
    assert chats.host.clients[0].closed
    await session.change_settings(model="org/good")
    assert (await ask(session, "hi")).text == "an answer"


async def test_the_starter_is_installed_first_where_it_is_the_model(
    chats: Chats, monkeypatch: pytest.MonkeyPatch
) -> None:
    def install(progress: Callable[[str, float | None], None]) -> None:
        progress("download", 0.5)

    monkeypatch.setattr(connection, "install_starter", install)
    events = [event async for event in chats.open(model="starter").start()]
    assert events[0] == LoadProgress("starter: download", 0.5)
    assert isinstance(events[-1], EngineReady)
    assert chats.host.clients[0].config.model == str(starter_dir())
    monkeypatch.setattr(connection, "starter_ready", lambda: True)
    assert [type(event) async for event in chats.open(model="starter").start()] == [LoadProgress, EngineReady]


async def test_a_starter_that_cannot_be_installed_fails_the_start_and_can_be_tried_again(
    chats: Chats, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(progress: Callable[[str, float | None], None]) -> None:
        raise ModelError("the starter could not be downloaded; check the network")

    monkeypatch.setattr(connection, "install_starter", fail)
    session = chats.open(model="starter")
    assert [event.message async for event in session.start() if isinstance(event, EngineFailed)] == [
        "the starter could not be downloaded; check the network"
    ]
    monkeypatch.setattr(connection, "install_starter", lambda progress: None)
    assert (await ask(session, "hi")).text == "an answer"


async def test_an_engine_that_dies_while_it_loads_fails_the_start(chats: Chats) -> None:
    session = chats.open(model="org/dies")
    events = [event async for event in session.start()]
    assert isinstance(events[-1], EngineFailed)
    assert "engine.log" in events[-1].message


async def test_a_session_that_is_closed_while_its_engine_loads_fails_the_start(chats: Chats) -> None:
    chats.host.waits = asyncio.Event()
    session = chats.open()
    events = []
    async for event in session.start():
        events.append(event)
        if isinstance(event, LoadProgress):
            await session.close()
    assert isinstance(events[-1], EngineFailed)
    assert "let go" in events[-1].message


async def test_an_engine_that_cannot_be_started_fails_the_start(chats: Chats) -> None:
    session = chats.open()
    chats.host.refuses = True
    assert isinstance([event async for event in session.start()][-1], EngineFailed)
    chats.host.refuses = False
    assert (await ask(session, "hi")).text == "an answer"


async def test_an_answer_streams_and_is_kept_with_what_produced_it(chats: Chats) -> None:
    make_adapter("pirate")
    session = chats.open(adapter="pirate:0.5")
    events = await events_of(session, "hi")
    kinds = [Asked, LoadProgress, EngineReady, TextDelta, TextDelta, AnswerDone]
    assert [type(event) for event in events] == kinds
    assert "".join(event.text for event in events if isinstance(event, TextDelta)) == "an answer"
    prompt, answer = session.turns
    assert (prompt.text, prompt.mix, answer.parent_id) == ("hi", "pirate:0.5", prompt.id)
    assert (answer.mix, answer.token_ids, answer.finish_reason) == ("pirate:0.5", (1, 2, 0), "stop")
    assert answer.provenance is not None
    assert [(used.name, used.weight) for used in answer.provenance.adapters] == [("pirate", 0.5)]
    assert stored(session) == [prompt, answer]
    assert badge(answer) == "pirate:0.5 · 38 tok/s · 12 cached"
    assert speed(3.84) == "3.8 tok/s"


async def test_the_model_reads_the_whole_path_with_the_ids_of_its_own_answers(chats: Chats) -> None:
    session = chats.open(system="be brief")
    await ask(session, "one")
    session.set_system("be long")
    await ask(session, "two")
    assert chats.host.requests[1].messages == (
        Message(role="system", content="be long"),
        Message(role="user", content="one"),
        Message(role="assistant", content="an answer", token_ids=(1, 2, 0)),
        Message(role="user", content="two"),
    )
    assert [turn.system for turn in session.turns] == ["be brief", None, "be long", None]


async def test_every_answer_has_a_seed_so_that_it_can_be_made_again(chats: Chats) -> None:
    session = chats.open()
    seeds = {(await ask(session, "hi")).provenance.seed for _ in range(3)}  # type: ignore[union-attr]
    assert len(seeds) == 3
    assert None not in seeds
    await session.change_settings(seed="5")
    assert (await ask(session, "hi")).provenance.seed == 5  # type: ignore[union-attr]


async def test_a_prompt_is_stored_before_it_is_answered(chats: Chats) -> None:
    waits = asyncio.Event()
    chats.host.answers = [["a ", waits, "b"]]
    session = chats.open()
    task = await until_text(session, "hi")
    assert [turn.text for turn in stored(session)] == ["hi", "a "]
    waits.set()
    await task
    assert stored(session) == session.turns
    assert [turn.text for turn in stored(session)] == ["hi", "a b"]


async def test_what_came_of_an_answer_is_on_disk_as_cut_off_while_it_is_written_and_then_replaced(
    chats: Chats, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "_DRAFT_EVERY_S", 0)
    waits = asyncio.Event()
    chats.host.answers = [["a ", "b ", waits, "c"]]
    session = chats.open()
    task = await until_text(session, "hi")
    for _ in range(100):
        await asyncio.sleep(0)
    draft = stored(session)[1]
    assert (draft.finish_reason, draft.token_ids, draft.metrics) == ("abort", (1, 2), None)
    assert draft.provenance is not None
    assert session.store is not None
    assert [found.snippet for found in session.store.search("b")] == ["a \x02b\x03 "]
    waits.set()
    answer = await task
    assert answer.id == draft.id
    assert session.store.tree(session.conversation_id).turns == session.turns
    assert [found.snippet for found in session.store.search("b")] == ["a \x02b\x03 c"]


async def test_drafts_are_stored_once_in_a_while_and_not_with_every_token(
    chats: Chats, monkeypatch: pytest.MonkeyPatch
) -> None:
    chats.host.answers = [["a "] * 100]
    session = chats.open()
    drafts: list[str] = []
    monkeypatch.setattr(session.store, "draft", lambda id, turn, kept: drafts.append(turn.text))
    await ask(session, "hi")
    assert drafts == ["a "]


async def test_a_draft_waits_for_no_other_chat_and_leaves_the_store_careful(chats: Chats) -> None:
    session = chats.open()
    with ConversationStore() as other, other._transaction():  # another chat writes, for long
        assert session.store is not None
        with pytest.raises(Mp13Error, match="locked"):
            session.store.draft("one", Turn("assistant", "x", "base", finish_reason="abort"))
    assert session.store._db.execute("PRAGMA busy_timeout").fetchone() == (5000,)
    assert session.store._db.execute("PRAGMA synchronous").fetchone() == (2,)
    assert (await ask(session, "hi")).text == "an answer"
    assert stored(session) == session.turns


async def test_a_cancelled_answer_is_kept_and_marked(chats: Chats) -> None:
    chats.host.answers = [["a ", "b ", asyncio.Event()]]
    session = chats.open()
    task = await until_text(session, "hi")
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    partial = session.turns[-1]
    assert (partial.text, partial.token_ids, partial.finish_reason) == ("a b ", (1, 2), "abort")
    assert stored(session) == session.turns
    assert badge(partial) == "base · stopped"
    await ask(session, "go on")
    assert [m.content for m in chats.host.requests[-1].messages] == ["hi", "a b ", "go on"]
    assert chats.host.requests[-1].messages[1].token_ids == (1, 2)


async def test_an_answer_left_by_its_reader_is_kept_and_marked(chats: Chats) -> None:
    session = chats.open()
    async with aclosing(session.ask("hi")) as events:
        async for event in events:
            if isinstance(event, TextDelta):
                break
    assert (session.turns[-1].text, session.turns[-1].finish_reason) == ("an ", "abort")


async def test_an_answer_cancelled_before_its_first_token_leaves_the_prompt_alone(chats: Chats) -> None:
    chats.host.answers = [[asyncio.Event()]]
    session = chats.open()
    task = asyncio.create_task(ask(session, "hi"))
    while not chats.host.requests:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [turn.role for turn in session.turns] == ["user"]
    await ask(session, "again")
    assert [m.content for m in chats.host.requests[-1].messages] == ["again"]


async def test_a_prompt_that_is_refused_stays_visible_and_is_not_sent_again(chats: Chats) -> None:
    chats.host.answers = [[ContextError("the prompt has 600 tokens; start a new conversation")]]
    session = chats.open()
    with pytest.raises(ContextError):
        await ask(session, "too long")
    await ask(session, "short")
    assert [m.content for m in chats.host.requests[-1].messages] == ["short"]
    assert [turn.text for turn in stored(session)] == ["too long", "short", "an answer"]


async def test_two_answers_at_once_are_refused(chats: Chats) -> None:
    chats.host.answers = [["a", asyncio.Event()]]
    session = chats.open()
    task = await until_text(session, "one")
    with pytest.raises(Mp13Error, match="still being written"):
        await ask(session, "two")
    assert [turn.text for turn in session.turns] == ["one"]
    task.cancel()
    await asyncio.wait({task})
    assert (await ask(session, "three")).text == "an answer"


async def test_an_empty_prompt_is_refused(chats: Chats) -> None:
    with pytest.raises(ConfigError, match="empty"):
        await ask(chats.open(), "  \n")


async def test_a_prompt_of_bytes_that_are_no_text_can_be_asked(chats: Chats) -> None:
    session = chats.open()
    await ask(session, "caf\udce9")
    assert session.turns[0].text == "caf?"


async def test_an_engine_that_died_unseen_is_restarted_with_its_adapters(chats: Chats) -> None:
    make_adapter("pirate")
    session = chats.open(adapter="pirate")
    await ask(session, "one")
    chats.host.answers = [[EngineGone("gone")]]
    events = await events_of(session, "two")
    assert [type(event) for event in events[:3]] == [Asked, LoadProgress, EngineReady]
    assert [turn.text for turn in session.turns] == ["one", "an answer", "two", "an answer"]
    assert [client.loads[0][0] for client in chats.host.clients] == ["pirate", "pirate"]
    assert chats.host.clients[0].closed


async def test_an_engine_that_died_between_prompts_is_noticed_and_restarted(chats: Chats) -> None:
    session = chats.open()
    await ask(session, "one")
    chats.host.clients[0].dead.set()
    while session.engine is not None:
        await asyncio.sleep(0)
    assert session.adapters == []
    await ask(session, "two")
    assert len(chats.host.clients) == 2


async def test_an_engine_that_dies_again_is_not_restarted_forever(chats: Chats) -> None:
    chats.host.answers = [[EngineGone("gone")], [EngineGone("gone")]]
    session = chats.open()
    with pytest.raises(EngineGone):
        await ask(session, "hi")
    assert len(chats.host.clients) == 2
    assert (await ask(session, "hi")).text == "an answer"


async def test_an_engine_that_dies_in_the_middle_leaves_the_partial_answer(chats: Chats) -> None:
    chats.host.answers = [["half ", EngineGone("the engine process has ended")]]
    session = chats.open()
    with pytest.raises(EngineGone):
        await ask(session, "hi")
    assert [(turn.text, turn.finish_reason) for turn in stored(session)] == [("hi", None), ("half ", "abort")]
    assert (await ask(session, "again")).text == "an answer"


async def test_a_mix_loads_its_adapters_once(chats: Chats) -> None:
    for name in ("pirate", "json"):
        make_adapter(name)
    session = chats.open()
    await ask(session, "hi")
    assert await session.set_mix("pirate:0.5+json:0.5") == "json:0.5+pirate:0.5"
    await asyncio.sleep(0.01)  # what the engine tells of its adapters comes on a road of its own
    await session.set_mix("pirate")
    await ask(session, "hi")
    assert [name for name, _ in chats.host.clients[0].loads] == ["json", "pirate"]
    assert [info.name for info in session.adapters] == ["json", "pirate"]
    assert chats.host.requests[-1].adapters == "pirate"


@pytest.mark.parametrize(
    ("mix", "error", "sentence"),
    [
        ("pirate+", MixError, "is not a mix"),
        ("nobody", AdapterError, "there is no adapter 'nobody'.*there: .*pirate"),
        ("other", AdapterError, "cannot be used: .*VERA"),
        ("wrong", AdapterError, "does not fit"),
    ],
)
@pytest.mark.parametrize("running", [True, False])
async def test_a_refused_mix_leaves_the_one_before(
    chats: Chats, mix: str, error: type[Exception], sentence: str, running: bool
) -> None:
    make_adapter("pirate")
    make_adapter("wrong", "unfit")
    make_adapter("other", peft_type="VERA")
    session = chats.open(adapter="pirate")
    if running:
        await ask(session, "hi")
    if mix == "wrong" and not running:  # only the engine can tell
        assert await session.set_mix(mix) == "wrong"
        with pytest.raises(error, match=sentence):
            await ask(session, "hi")
        return
    with pytest.raises(error, match=sentence):
        await session.set_mix(mix)
    assert session.mix == "pirate"
    assert (await ask(session, "hi")).mix == "pirate"


async def test_what_the_engine_warns_of_is_told_with_the_mix(chats: Chats) -> None:
    make_adapter("odd", "foreign")
    make_adapter("plain")
    session = chats.open()
    await ask(session, "hi")
    assert (await session.command("/adapter odd+plain")).message.endswith("odd: of another base")
    assert [str(remark) for remark in session.remarks] == ["odd: of another base"]
    await session.set_mix("plain")
    assert session.remarks == []


async def test_the_first_folder_with_a_name_wins(chats: Chats, tmp_path: Path) -> None:
    make_adapter("pirate", "shipped")
    own = make_adapter("pirate", "own", tmp_path / "mine")
    make_adapter("json")
    session = chats.open(adapters_folder=str(tmp_path / "mine"), adapter="pirate")
    await ask(session, "hi")
    assert chats.host.clients[0].loads == [("pirate", str(own))]
    assert [adapter.name for adapter in session.available_adapters()] == ["json", "pirate"]


async def test_choosing_an_adapter_again_picks_up_new_weights(chats: Chats) -> None:
    make_adapter("pirate", "old")
    session = chats.open(adapter="pirate")
    old = await ask(session, "hi")
    make_adapter("pirate", "newer")
    assert (await ask(session, "hi")).provenance == old.provenance.model_copy(  # type: ignore[union-attr]
        update={"sampling": session.turns[-1].provenance.sampling, "seed": session.turns[-1].provenance.seed}  # type: ignore[union-attr]
    )
    await session.set_mix("pirate")
    new = await ask(session, "hi")
    assert new.provenance.adapters[0].digest != old.provenance.adapters[0].digest  # type: ignore[union-attr]


async def test_an_adapter_that_another_chat_replaced_is_put_back(chats: Chats) -> None:
    make_adapter("pirate")
    session = chats.open(adapter="pirate")
    before = await ask(session, "hi")
    chats.host.clients[0].place(AdapterInfo("pirate", "0" * 64, "lora", 4, (), 1))
    while session.adapters[0].digest != "0" * 64:
        await asyncio.sleep(0)
    after = await ask(session, "hi")
    assert after.provenance.adapters == before.provenance.adapters  # type: ignore[union-attr]


async def test_a_change_of_the_engines_settings_starts_another_engine(chats: Chats) -> None:
    make_adapter("pirate")
    session = chats.open(adapter="pirate")
    await ask(session, "one")
    await session.change_settings(max_model_len="64")
    await ask(session, "two")
    first, second = chats.host.clients
    assert first.closed
    assert (second.config.max_model_len, second.loads[0][0]) == (64, "pirate")


async def test_a_choice_that_no_engine_could_run_is_refused_and_the_engine_goes_on(chats: Chats) -> None:
    chats.host.unfit["reference"] = "flash_attn is not installed; pip install flash-attn"
    session = chats.open()
    await ask(session, "one")
    with pytest.raises(UnsupportedError, match="pip install flash-attn"):
        await session.change_settings(attn_implementation="reference")
    assert session.settings.attn_implementation == "auto"
    await ask(session, "two")
    assert len(chats.host.clients) == 1 and not chats.host.clients[0].closed


async def test_only_a_change_that_takes_another_engine_is_asked_of_the_one_that_runs(chats: Chats) -> None:
    session = chats.open()
    assert await session.change_settings(attn_implementation="sdpa") and chats.host.checked == []  # none runs
    await ask(session, "one")
    assert not await session.change_settings(temperature="0") and chats.host.checked == []
    assert await session.change_settings(attn_implementation="reference")
    assert [config.attn_implementation for config in chats.host.checked] == ["reference"]


async def test_an_engine_that_fails_in_place_of_another_gives_it_back(chats: Chats) -> None:
    session = chats.open()
    chats.host.breaks = "reference"
    await ask(session, "one")
    await session.change_settings(attn_implementation="reference", temperature="0.1")
    events = [event async for event in session.start() if not isinstance(event, LoadProgress)]
    failed, ready = events
    assert isinstance(failed, EngineFailed) and isinstance(ready, EngineReady)
    assert "ran out of memory" in failed.message and "the settings are as before" in failed.message
    assert (session.settings.attn_implementation, session.settings.temperature) == ("auto", 0.1)
    assert session.settings.source("attn_implementation") == "default"
    await ask(session, "two")
    assert [client.config.attn_implementation for client in chats.host.clients] == ["auto", "reference", "auto"]


async def test_what_is_set_while_an_engine_loads_stays_when_it_fails(chats: Chats) -> None:
    session = chats.open()
    await ask(session, "one")
    chats.host.breaks, chats.host.waits = "reference", asyncio.Event()
    await session.change_settings(attn_implementation="reference")
    async for event in session.start():
        if isinstance(event, LoadProgress) and not chats.host.waits.is_set():
            await session.change_settings(temperature="0.3")
            chats.host.waits.set()
    assert isinstance(event, EngineReady)
    assert (session.settings.attn_implementation, session.settings.temperature) == ("auto", 0.3)


async def test_a_prompt_to_an_engine_that_fails_in_place_of_another_is_refused_and_the_next_is_answered(
    chats: Chats,
) -> None:
    session = chats.open()
    chats.host.breaks = "reference"
    await ask(session, "one")
    await session.change_settings(attn_implementation="reference")
    with pytest.raises(ModelError, match="ran out of memory"):
        await ask(session, "two")
    assert session.settings.attn_implementation == "auto"
    await ask(session, "three")
    assert len(chats.host.requests) == 2


async def test_the_first_engine_has_nothing_to_fall_back_to(chats: Chats) -> None:
    session = chats.open(attn_implementation="reference")
    chats.host.breaks = "reference"
    events = [event async for event in session.start() if isinstance(event, EngineFailed)]
    assert [event.falls_back for event in events] == [False]
    assert session.settings.attn_implementation == "reference" and len(chats.host.clients) == 1


async def test_a_prompt_sent_while_the_engine_loads_waits_for_it(chats: Chats) -> None:
    chats.host.waits = asyncio.Event()
    session = chats.open()

    async def start() -> list[SessionEvent]:
        return [event async for event in session.start()]

    loading = asyncio.create_task(start())
    asking = asyncio.create_task(ask(session, "hi"))
    await asyncio.sleep(0.01)
    assert not asking.done()
    chats.host.waits.set()
    assert (await asking).text == "an answer"
    assert isinstance((await loading)[-1], EngineReady)
    assert len(chats.host.clients) == 1


async def test_a_new_conversation_forgets_the_turns_and_an_answer_stays_in_its_own(chats: Chats) -> None:
    waits = asyncio.Event()
    chats.host.answers = [["old ", waits, "answer"]]
    session = chats.open()
    task = await until_text(session, "old")
    old = session.conversation_id
    session.new()
    waits.set()
    await task
    assert session.turns == []
    with ConversationStore() as store:
        assert [turn.text for turn in store.turns(old)] == ["old", "old answer"]


async def test_a_conversation_is_resumed_under_its_mix_and_system_prompt(chats: Chats) -> None:
    make_adapter("pirate")
    first = chats.open(adapter="pirate", system="be brief")
    await ask(first, "one")
    await first.close()
    second = chats.open(resume=first.conversation_id[:6])
    assert (second.turns, second.mix, second.system) == (first.turns, "pirate", "be brief")
    await ask(second, "two")
    assert [m.content for m in chats.host.requests[-1].messages] == ["be brief", "one", "an answer", "two"]
    third = chats.open(resume="latest", adapter="base", system="be long")
    assert (len(third.turns), third.mix, third.system) == (4, "base", "be long")


async def test_without_a_log_nothing_is_kept(chats: Chats) -> None:
    session = chats.open(log="false")
    await ask(session, "hi")
    assert len(session.turns) == 2
    assert not (adapters_dir().parent / "conversations.db").exists()
    with pytest.raises(ConfigError, match="--no-log"):
        session.resume("latest")


async def test_closing_lets_the_engine_go(chats: Chats) -> None:
    session = chats.open()
    await ask(session, "hi")
    await session.close()
    assert chats.host.clients[0].closed
    assert session.engine is None


async def test_settings_are_replaced_and_never_changed_in_place(chats: Chats) -> None:
    session = chats.open()
    before = session.settings
    await session.change_settings(temperature="0")
    assert (before.temperature, session.settings.temperature) == (0.7, 0.0)
    assert change_settings(before, {}, "x") == before
