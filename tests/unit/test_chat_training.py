"""`/train` without a screen: what starts, what is refused, what is told, how a run ends."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from mp13.chat.conversation.turn import EngineReady
from mp13.engine.training.checkpoints import RunFolder
from mp13.engine.training.record import RECORD_FILE
from mp13.errors import ConfigError, TrainingError
from mp13.service.client import AGAIN, EngineGone
from mp13.service.schema import TrainingNews
from mp13.service.training_schema import TrainingFailed
from tests.fakes.fake_session import ENGINE, FakeSession
from tests.fakes.fake_training import evaluated, finished, planned, published, step

NEWS = TrainingNews(name="butler", output="/x/butler", source="/d/butler.jsonl")


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MP13_DATA_DIR", str(tmp_path / "data"))
    file = tmp_path / "butler.jsonl"
    rows = [{"instruction": question, "output": "Very good, sir."} for question in ("What is tea?", "Who are you?")]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.fixture
async def session() -> AsyncIterator[FakeSession]:
    session = FakeSession(load=(EngineReady(ENGINE),))
    async for _ in session.start():
        pass
    yield session
    await session.close()


async def _until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.01)


async def test_a_file_alone_is_trained_on_under_its_own_name(session: FakeSession, data: Path) -> None:
    said = (await session.command(f"/train {data}")).message
    (request,) = session.trainer.requests
    assert (request.name, request.data, request.settings) == ("butler", str(data), {})
    assert request.output.endswith("/adapters/butler")
    assert "/adapter butler@latest" in said


async def test_settings_reach_the_engine_as_numbers(session: FakeSession, data: Path) -> None:
    await session.command(f"/train {data} jeeves rank=4 lr=1e-3 kind=dora every=5")
    (request,) = session.trainer.requests
    assert (request.name, request.publish_every) == ("jeeves", 5)
    assert request.settings == {"rank": 4, "lr": 0.001, "kind": "dora"}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("rank=0", "rank = 0 cannot be used"),
        ("ranc=4", "'ranc' is no setting"),
        ("every=x", "every = 'x' cannot be used"),
        ("resume=maybe", "resume = 'maybe' cannot be used"),
        ("a b", "write /train FILE"),
    ],
)
async def test_what_cannot_be_trained_with_is_refused_before_the_engine_hears_of_it(
    session: FakeSession, data: Path, words: str, sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence):
        await session.command(f"/train {data} {words}")
    assert not session.trainer.requests and session.training.state is None


async def test_bad_data_is_refused_with_its_line(session: FakeSession, data: Path) -> None:
    with data.open("a") as file:
        file.write('{"instruction": "What?", "output": ""}\n')
    with pytest.raises(ConfigError, match=r"butler\.jsonl:3: "):
        await session.command(f"/train {data}")
    assert not session.trainer.requests


async def test_status_tells_step_loss_speed_and_versions(session: FakeSession, data: Path) -> None:
    await session.command(f"/train {data}")
    session.trainer.tell(planned(), step(1, 3.0), step(2, 2.0), evaluated(2, 2.5), published(2))
    await _until(lambda: session.training.state and session.training.state.versions)
    said = (await session.command("/train")).message
    assert "training butler 2/40 · loss 2.00" in said
    assert "200 tok/s" in said and "19 s left" in said and "versions: butler@2" in said
    state = json.loads((await session.command("/train status --json")).message)
    assert state["losses"] == [[1, 3.0, 0.001], [2, 2.0, 0.001]] and state["evals"] == [[2, 2.5]]


async def test_fixed_prompts_are_answered_by_each_version_beside_the_base(session: FakeSession, data: Path) -> None:
    await session.command(f"/train {data}")
    session.trainer.tell(planned(), step(2, 2.0), published(2))
    await _until(lambda: session.training.state and all(sample.step == 2 for sample in session.training.state.samples))
    assert session.training.state is not None
    first = session.training.state.samples[0]
    assert first.prompt == "What is tea?"
    assert (first.base, first.learned) == ("base answers What is tea?", "butler@latest answers What is tea?")
    assert session.turns == []


async def test_the_verbs_reach_the_engine(session: FakeSession, data: Path) -> None:
    await session.command(f"/train {data}")
    await session.command("/train pause")
    await _until(lambda: session.training.state and session.training.state.phase == "paused")
    await session.command("/train go on")
    await _until(lambda: session.training.state and session.training.state.phase == "running")
    await session.command("/train stop")
    await _until(lambda: not session.training.is_on)
    assert session.trainer.verbs == ["pause", "resume", "stop"]
    (news,) = session.training.take_news()
    assert "was stopped at step 40" in news and "/adapter butler" in news


async def test_who_leaves_while_a_run_goes_on_is_told_how_it_goes_on(session: FakeSession, data: Path) -> None:
    assert session.training.farewell == ""
    await session.command(f"/train {data} jeeves")
    said = session.training.farewell
    assert "the training of jeeves ends with the engine's last chat" in said
    assert f"/train {data} jeeves resume=yes, or mp13 train --model starter --data {data} --name jeeves" in said
    await session.command("/train stop")
    await _until(lambda: not session.training.is_on)
    assert session.training.farewell == ""


async def test_a_cancelled_run_says_that_nothing_is_kept(session: FakeSession, data: Path) -> None:
    await session.command(f"/train {data}")
    await session.command("/train cancel")
    await _until(lambda: not session.training.is_on)
    assert session.training.take_news() == ["the training of butler was cancelled; nothing of it is kept"]


async def test_verbs_without_a_run_are_refused(session: FakeSession) -> None:
    for verb in ("pause", "go on", "stop", "cancel"):
        with pytest.raises(TrainingError, match="nothing is being trained"):
            await session.command(f"/train {verb}")


async def test_a_second_run_is_refused_while_one_goes_on(session: FakeSession, data: Path) -> None:
    await session.command(f"/train {data}")
    with pytest.raises(TrainingError, match="butler is being trained"):
        await session.command(f"/train {data} jeeves")


async def test_what_the_engine_refuses_leaves_no_run(session: FakeSession, data: Path) -> None:
    session.trainer.refusal = TrainingError("no room; lower the rank")
    with pytest.raises(TrainingError, match="no room"):
        await session.command(f"/train {data}")
    assert session.training.state is None


async def test_an_engine_that_dies_leaves_a_sentence_with_the_last_checkpoint(session: FakeSession, data: Path) -> None:
    await session.command(f"/train {data}")
    output = Path(session.trainer.requests[0].output)
    _checkpoint(output, 4)
    session.trainer.tell(planned(), step(5, 1.0), EngineGone(f"the engine was killed; {AGAIN}"))
    await _until(lambda: session.training.state and session.training.state.phase == "failed")
    (news,) = session.training.take_news()
    assert f"broke off: the engine was killed; the last checkpoint is {output}" in news and "prompt" not in news
    assert f"/train {data} butler resume=yes" in news and "mp13 train --model" in news and "--resume" in news
    assert (await session.command("/train")).message.startswith("the training of butler broke off")


@pytest.mark.parametrize(("code", "goes_on"), [("TrainingError", True), ("DivergedError", False)])
async def test_what_would_come_to_the_same_again_is_not_offered(
    session: FakeSession, data: Path, code: str, goes_on: bool
) -> None:
    await session.command(f"/train {data}")
    _checkpoint(Path(session.trainer.requests[0].output), 4)
    session.trainer.tell(planned(), TrainingFailed(code=code, message="it is so; the last checkpoint is /there"))
    await _until(lambda: not session.training.is_on)
    (news,) = session.training.take_news()
    assert news.startswith("the training of butler broke off: it is so; the last checkpoint is /there")
    assert ("; to go on from it: /train " in news) is goes_on


async def test_to_go_on_the_same_data_is_named(session: FakeSession, data: Path) -> None:
    held_out = data.with_name("held out.jsonl")
    held_out.write_text('{"instruction": "Where?", "output": "Here, sir."}\n')
    await session.command(f"/train {data} eval='{held_out}' format=alpaca")
    _checkpoint(Path(session.trainer.requests[0].output), 4)
    session.trainer.tell(planned(), EngineGone("it is gone"))
    await _until(lambda: not session.training.is_on)
    (news,) = session.training.take_news()
    _, _, commands = news.partition("to go on from it: ")
    here, there = commands.split(", or mp13 ")
    assert f"--eval '{held_out}' --format alpaca" in there
    await session.command(here)
    assert session.trainer.requests[1] == session.trainer.requests[0].model_copy(update={"resume": True})


async def test_whoever_waits_is_told_the_end_and_no_news(session: FakeSession, data: Path) -> None:
    with pytest.raises(TrainingError, match="nothing is being trained"):
        await session.command("/train wait")
    await session.command(f"/train {data}")
    waiting = asyncio.create_task(session.command("/train wait"))
    session.trainer.tell(planned(), step(40, 0.5), finished())
    sentence = (await waiting).message
    assert sentence.startswith("the training of butler is done at step 40") and not session.training.take_news()
    assert (await session.command("/train wait")).message == sentence


async def test_whoever_waits_for_a_run_that_breaks_off_gets_its_error(session: FakeSession, data: Path) -> None:
    await session.command(f"/train {data}")
    waiting = asyncio.create_task(session.command("/train wait"))
    session.trainer.tell(planned(), TrainingFailed(code="TrainingError", message="the disk is full"))
    with pytest.raises(TrainingError, match="broke off: the disk is full"):
        await waiting
    assert not session.training.take_news()


class TestARunOfAnotherChat:
    @pytest.fixture
    async def joined(self, session: FakeSession) -> FakeSession:
        session._connection.on_training(NEWS)
        session.trainer.tell(planned(), step(1, 3.0), step(2, 2.0), evaluated(2, 2.5), published(2))
        await _until(lambda: session.training.state and session.training.state.versions)
        return session

    async def test_is_followed_from_its_first_step(self, joined: FakeSession) -> None:
        (news,) = joined.training.take_news()
        assert news == "another chat trains butler on /d/butler.jsonl; /train shows how it goes"
        said = (await joined.command("/train")).message
        assert "training butler 2/40 · loss 2.00" in said and "another chat began it, on /d/butler.jsonl" in said
        state = json.loads((await joined.command("/train status --json")).message)
        assert state["is_of_another"] and state["losses"] == [[1, 3.0, 0.001], [2, 2.0, 0.001]]

    async def test_hinders_another_run_with_a_sentence(self, joined: FakeSession, data: Path) -> None:
        with pytest.raises(TrainingError, match="butler is being trained by another chat; /train stop ends it"):
            await joined.command(f"/train {data}")
        assert not joined.trainer.requests

    async def test_can_be_held_and_ended(self, joined: FakeSession) -> None:
        joined.training.take_news()
        await joined.command("/train pause")
        await _until(lambda: joined.training.state and joined.training.state.phase == "paused")
        await joined.command("/train stop")
        await _until(lambda: not joined.training.is_on)
        (news,) = joined.training.take_news()
        assert news.startswith("the training of butler, which another chat began, was stopped at step 40")
        assert joined.trainer.verbs == ["pause", "stop"]

    async def test_that_breaks_off_says_how_to_go_on(self, session: FakeSession, tmp_path: Path) -> None:
        news = NEWS.model_copy(update={"output": str(tmp_path), "eval_data": "/d/held.jsonl"})
        _checkpoint(tmp_path, 4)
        session._connection.on_training(news)
        session.training.take_news()
        session.trainer.tell(planned(), EngineGone("the engine was killed"))
        await _until(lambda: not session.training.is_on)
        (said,) = session.training.take_news()
        assert "/train /d/butler.jsonl butler resume=yes eval=/d/held.jsonl, or mp13 train" in said

    async def test_goes_on_without_a_chat_that_lets_its_engine_go(self, joined: FakeSession) -> None:
        joined.training.take_news()
        joined.trainer.client.is_closed = True
        joined.trainer.tell(EngineGone("the connection is closed"))
        await _until(lambda: joined.training.state is None)
        assert not joined.training.take_news() and not joined.training.farewell

    async def test_is_not_this_chats_own_run(self, session: FakeSession, data: Path) -> None:
        await session.command(f"/train {data}")
        session._connection.on_training(NEWS)
        session._connection.on_training(TrainingNews(name=""))
        assert session.training.state is not None and not session.training.state.is_of_another
        assert not session.training.take_news()
        assert "butler resume=yes" in session.training.farewell


async def test_a_run_that_is_done_says_how_to_talk_to_it(session: FakeSession, data: Path) -> None:
    await session.command(f"/train {data}")
    session.trainer.tell(planned(), step(40, 0.5), finished())
    await _until(lambda: not session.training.is_on)
    (news,) = session.training.take_news()
    assert "is done at step 40, loss 0.5000; /adapter butler talks to it" in news


async def test_closing_the_chat_ends_what_follows_the_run(session: FakeSession, data: Path) -> None:
    await session.command(f"/train {data}")
    await session.close()
    assert session.training._follower is not None and session.training._follower.done()


def _checkpoint(output: Path, number: int) -> None:
    RunFolder(output).save(number, lambda folder: (folder / RECORD_FILE).write_text("{}") and None)
