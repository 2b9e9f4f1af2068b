"""A real engine trains for a real chat, and something goes wrong, or another chat looks on: what is said, what is left
on the disk, and that the next prompt is answered."""

import asyncio
import json
import os
import resource
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio
from transformers import AutoTokenizer

from mp13.chat.conversation.session import ChatSession
from mp13.chat.conversation.turn import AnswerDone
from mp13.chat.settings.load import load_settings
from mp13.engine.training.checkpoints import RunFolder
from mp13.errors import TrainingError
from mp13.library.paths import adapters_dir
from mp13.service.schema import FinishEvent, GenerateRequest, Message, SamplingParams
from tests.engine.tiny_models import assert_greedy_matches, reference_model, tiny_model
from tests.service.test_mp13_train_failures import overflowing_model

pytestmark = pytest.mark.slow
SMALL = {"dtype": "float32", "kv_cache_memory": "256KiB", "block_size": 4, "max_tokens": 4, "temperature": 0}
LONG = "/train butler.jsonl mine rank=2 batch_tokens=64 steps=100000 save_every=5 keep=100"
Open = Callable[..., ChatSession]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"), max_position_embeddings=300)


@pytest_asyncio.fixture
async def chat(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Open]:
    """Opens chats that share an engine, in a folder with the file `butler.jsonl`."""
    monkeypatch.chdir(tmp_path)
    rows = [{"instruction": q, "output": "Very good, sir."} for q in ("the dog", "the fox", "hello", "and then")]
    Path("butler.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    opened: list[ChatSession] = []

    def open_chat(path: Path = model) -> ChatSession:
        opened.append(ChatSession.open(load_settings({"model": str(path), "log": False, **SMALL})))
        return opened[-1]

    yield open_chat
    for session in opened:
        await session.close()


async def answer(session: ChatSession) -> str:
    events = [event async for event in session.ask("hello")]
    assert isinstance(events[-1], AnswerDone)
    return events[-1].turn.text


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)


async def trains(session: ChatSession, line: str = LONG) -> None:
    """Until it has a checkpoint."""
    await session.command(line)
    await until(lambda: folder().steps() or not session.training.is_on)
    assert session.training.is_on


async def broken_off(session: ChatSession, model: Path) -> str:
    """What is said of the end of the run, whose last checkpoint is whole; the next prompt is answered."""
    await until(lambda: not session.training.is_on)
    (news,) = session.training.take_news()
    assert news.startswith("the training of mine broke off: ") and "prompt" not in news
    assert news.count(f"the last checkpoint is {folder().last()}") == 1
    assert await answer(session)
    await assert_opens_in_peft(session, model)
    return news


def folder() -> RunFolder:
    return RunFolder(adapters_dir() / "mine")


async def assert_opens_in_peft(session: ChatSession, model: Path) -> None:
    """The last checkpoint, which answers here as it does there."""
    await session.client.load_adapter(str(folder().last()), "kept")
    asked, sampling = (Message(role="user", content="hello"),), SamplingParams(temperature=0, max_tokens=8)
    async for event in session.client.generate(GenerateRequest(messages=asked, adapters="kept", sampling=sampling)):
        if isinstance(event, FinishEvent):
            tokenizer = AutoTokenizer.from_pretrained(model)
            talk = [{"role": "user", "content": "hello"}]
            prompt = tokenizer.apply_chat_template(talk, add_generation_prompt=True, return_dict=False)
            assert_greedy_matches(reference_model(model, [(folder().last(), 1.0)]), prompt, event.token_ids)
            return
    raise AssertionError("no end")


async def goes_on(session: ChatSession, news: str) -> None:
    """By the command that was proposed."""
    step = folder().steps()[-1]
    line = news.rpartition("to go on from it: ")[2].partition(", or mp13 train ")[0]
    await session.command(line)
    await until(lambda: (state := session.training.state) and state.losses and state.step > step + 1)
    assert session.training.state is not None and session.training.state.losses[0][0] == step + 1
    await session.command("/train stop")
    assert "was stopped at step" in (await session.command("/train wait")).message
    await session.set_mix("mine")
    assert await answer(session)


async def test_an_engine_that_is_killed(chat: Open, model: Path) -> None:
    session = chat()
    await trains(session)
    assert session.engine is not None
    pid = session.engine.pid
    os.kill(pid, signal.SIGKILL)
    news = await broken_off(session, model)
    assert "broke off: the engine process was killed, as the system does when memory runs out; its log is" in news
    assert session.engine.pid != pid
    await goes_on(session, news)


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="limits of another process are Linux's")
async def test_a_disk_that_is_full(chat: Open, model: Path) -> None:
    session = chat()
    await trains(session)
    assert session.engine is not None
    pid = session.engine.pid
    limits = resource.prlimit(pid, resource.RLIMIT_FSIZE)  # stands for the end of the disk
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (8000, limits[1]))
    news = await broken_off(session, model)
    assert "broke off: the checkpoint of step " in news and " cannot be written (" in news
    resource.prlimit(pid, resource.RLIMIT_FSIZE, limits)
    await goes_on(session, news)
    assert session.engine.pid == pid


async def test_numbers_that_overflow(chat: Open, tmp_path: Path) -> None:
    model = overflowing_model(tmp_path / "overflowing")
    session = chat(model)
    with Path("butler.jsonl").open("w") as file:
        file.writelines([json.dumps({"text": f"the {w} is a {w}"}) + "\n" for w in ("sun", "sea", "sky", "cat")])
        file.write(json.dumps({"text": "Z"}) + "\n")
    await session.command("/train butler.jsonl mine rank=2 batch_rows=1 steps=9 save_every=1 seed=1")
    news = await broken_off(session, model)
    assert "is not a finite number; train anew under another name, with a learning rate below" in news
    assert f"at step {folder().steps()[-1] + 1} " in news and "to go on from it" not in news
    assert session.training.state is not None and session.training.state.phase == "failed"


async def test_a_second_chat_follows_the_run_and_may_end_it(chat: Open) -> None:
    first, second, late = chat(), chat(), chat()
    await trains(first)
    async for _ in second.start():
        pass
    await until(lambda: (state := second.training.state) and state.losses)
    assert second.training.state is not None and second.training.state.losses[0][0] == 1
    (news,) = second.training.take_news()
    assert news == f"another chat trains mine on {Path('butler.jsonl').resolve()}; /train shows how it goes"
    with pytest.raises(TrainingError, match="mine is being trained by another chat"):
        await second.command("/train butler.jsonl other")
    assert await answer(second)
    await second.command("/train pause")
    for session in (first, second):
        await until(lambda session=session: session.training.state.phase == "paused")
    await first.close()  # the engine, and the run with it, goes on with the second
    async for _ in late.start():
        pass
    await until(lambda: late.training.is_on and late.training.state and late.training.state.phase == "paused")
    late.training.take_news()
    await late.close()  # leaves it alone, and says nothing of an end
    assert not late.training.take_news() and not late.training.farewell
    await second.command("/train go on")
    await second.command("/train stop")
    said = (await second.command("/train wait")).message
    assert said.startswith("the training of mine, which another chat began, was stopped at step ")
    await second.set_mix("mine")
    assert await answer(second)


async def test_a_chat_that_comes_after_the_end_hears_nothing_of_it(chat: Open) -> None:
    first, second = chat(), chat()
    await trains(first, "/train butler.jsonl mine rank=2 batch_tokens=64 steps=40 save_every=5")
    await first.command("/train wait")
    async for _ in second.start():
        pass
    assert await answer(second)
    assert second.training.state is None and not second.training.take_news()
