"""Training from the chat's screen: the form, the live screen and its keys, the status line, what is told at the end."""

import asyncio
import json
from pathlib import Path

import pytest
from rich.color import Color
from syrupy.assertion import SnapshotAssertion
from textual import events

from mp13.chat.conversation.turn import EngineReady
from mp13.chat.tui import app as tui
from mp13.chat.tui.screens.train_form import TrainScreen, _Files
from mp13.chat.tui.screens.training import TrainingScreen
from mp13.service.client import EngineGone
from mp13.service.schema import TrainingNews
from tests.fakes.fake_session import ENGINE, FakeSession
from tests.fakes.fake_training import evaluated, finished, planned, published, step
from tests.tui.conftest import Chat, chatting

pytestmark = pytest.mark.usefixtures("still")
SIZES = [(80, 24), (120, 36)]


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A file in the folder that the chat stands in."""
    monkeypatch.setenv("MP13_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    rows = [("What is tea?", "Very good, sir. Tea is a leaf."), ("Who are you?", "Your butler, sir.")]
    lines = [json.dumps({"instruction": question, "output": answer}) + "\n" for question, answer in rows]
    Path("butler.jsonl").write_text("".join(lines))
    return "butler.jsonl"


async def _watched(chat: Chat, data: str) -> None:
    """The live screen over a run of twelve steps."""
    assert isinstance(chat.session, FakeSession)
    await chat.say(f"/train {data}")
    losses = [3.2, 2.9, 2.7, 2.8, 2.2, 1.9, 2.0, 1.6, 1.3, 1.35, 1.1, 1.0]
    chat.session.trainer.tell(planned(), *(step(n, loss) for n, loss in enumerate(losses, start=1)))
    chat.session.trainer.tell(evaluated(4, 2.9), evaluated(8, 2.1), evaluated(12, 1.7), published(12))
    await chat.sees("training butler 12/40 · loss 1.00")
    await chat.send("/train")
    await chat.until(lambda: isinstance(chat.app.screen, TrainingScreen))
    await chat.sees("butler@12")


async def test_the_status_line_tells_how_far_it_is(data: str) -> None:
    session = FakeSession()
    async with chatting(session) as chat:
        await chat.say(f"/train {data}")
        session.trainer.tell(planned(), step(3, 1.234))
        await chat.until(lambda: "training butler 3/40 · loss 1.23" in chat.status)
        session.trainer.tell(finished())
        await chat.until(lambda: "training" not in chat.status)
        await chat.sees("/adapter butler")


@pytest.mark.parametrize("size", SIZES)
async def test_the_live_screen_shows_curves_speed_and_answers(
    data: str, size: tuple[int, int], picture: SnapshotAssertion
) -> None:
    async with chatting(FakeSession(), size) as chat:
        await _watched(chat, data)
        await chat.sees("step 12 of 40", "loss 1.0000", "200 tok/s", "1.2 GB", "14 s left", "eval loss")
        await chat.sees("base answers What is tea?", "butler@latest answers")
        assert await chat.still() == picture


async def test_p_pauses_and_goes_on(data: str) -> None:
    session = FakeSession()
    async with chatting(session) as chat:
        await _watched(chat, data)
        await chat.press("p")
        await chat.sees("paused, step 12", "P go on")
        await chat.press("p")
        await chat.sees("running, step 12")
        assert session.trainer.verbs == ["pause", "resume"]


async def test_s_stops_and_keeps(data: str) -> None:
    session = FakeSession()
    async with chatting(session) as chat:
        await _watched(chat, data)
        await chat.press("s")
        await chat.sees("was stopped at step 40")
        assert session.trainer.verbs == ["stop"]


async def test_c_asks_once_and_then_cancels(data: str) -> None:
    session = FakeSession()
    async with chatting(session) as chat:
        await _watched(chat, data)
        await chat.press("c")
        await chat.sees("again cancels it")
        assert session.trainer.verbs == []
        await chat.press("c")
        await chat.sees("nothing of it is kept")
        assert session.trainer.verbs == ["cancel"]


async def test_escape_goes_back_to_the_chat_and_the_run_goes_on(data: str) -> None:
    session = FakeSession(["Hello."])
    async with chatting(session) as chat:
        await _watched(chat, data)
        await chat.press("escape")
        await chat.until(lambda: chat.app.screen is chat.conversation)
        await chat.say("Hi")
        await chat.sees("Hello.")
        assert session.trainer.verbs == [] and session.training.is_on


async def test_the_answers_scroll(data: str) -> None:
    session = FakeSession()
    async with chatting(session) as chat:
        await chat.say(f"/train {data} prompt={'a' * 400} prompt=last")
        session.trainer.tell(planned(), step(1, 3.0), published(1))
        await chat.send("/train")
        await chat.sees("aaaa")
        assert "base answers last" not in chat.shown()
        await chat.press(*["pagedown"] * 6)
        await chat.sees("base answers last")
        await chat.press(*["pageup"] * 6)
        await chat.until(lambda: "base answers last" not in chat.shown())


@pytest.mark.parametrize(("keys", "how"), [("s", "stopped"), ("cc", "cancelled")])
async def test_the_live_screen_says_how_a_run_ended(data: str, keys: str, how: str) -> None:
    async with chatting(FakeSession()) as chat:
        await _watched(chat, data)
        await chat.press(*keys)
        await chat.sees(f"{how}, step 40 of 40")


async def test_an_engine_that_dies_is_told_and_the_chat_goes_on(data: str) -> None:
    session = FakeSession(["Hello."])
    async with chatting(session) as chat:
        await chat.say(f"/train {data}")
        session.trainer.tell(planned(), EngineGone("the engine was killed"))
        await chat.sees("broke off", "the engine was killed")
        await chat.say("Hi")
        await chat.sees("Hello.")


async def test_the_run_of_another_chat_is_told_shown_and_can_be_held(data: str) -> None:
    session = FakeSession()
    async with chatting(session, (120, 36)) as chat:
        session._connection.on_training(TrainingNews(name="butler", output="/x/butler", source="/d/butler.jsonl"))
        session.trainer.tell(planned(), step(1, 3.2), step(2, 1.5))
        await chat.until(lambda: "training butler 2/40 · loss 1.50" in chat.status)
        await chat.sees("another chat trains butler on /d/butler.jsonl; /train")
        await chat.send("/train")
        await chat.until(lambda: isinstance(chat.app.screen, TrainingScreen))
        await chat.sees("Training butler, begun by another chat", "step 2 of 40")
        await chat.press("p")
        await chat.sees("paused, step 2", "P go on")
        assert session.trainer.verbs == ["pause"] and not session.trainer.requests


@pytest.mark.parametrize("size", SIZES)
async def test_the_form_shows_what_is_learned(data: str, size: tuple[int, int], picture: SnapshotAssertion) -> None:
    async with chatting(FakeSession(), size) as chat:
        await chat.send("/train")
        await chat.until(lambda: isinstance(chat.app.screen, TrainScreen))
        await chat.press(*data)
        await chat.sees("What is tea?", "Tea is a leaf.", "carry loss")
        assert await chat.still() == picture


async def _in_form(chat: Chat, data: str) -> None:
    await chat.send("/train")
    await chat.until(lambda: isinstance(chat.app.screen, TrainScreen))
    await chat.press(*data)


def _coloured(chat: Chat) -> str:
    """What stands on the screen in the colour of what carries loss."""
    strips = chat.app.screen._compositor.render_strips()
    styled = [(segment.text, segment.style) for strip in strips for segment in strip]
    return "".join(text for text, style in styled if style and style.bgcolor == Color.parse("#a6e3a1"))


@pytest.mark.parametrize("learns_end", [True, False])
async def test_the_form_colours_exactly_the_tokens_that_carry_loss(data: str, learns_end: bool) -> None:
    session, end = FakeSession(), "<|end|>" * learns_end
    session.trainer.learns_end = learns_end
    async with chatting(session, (120, 36)) as chat:
        await _in_form(chat, data)
        await chat.sees("<|user|>What is tea?<|end|>", "<|user|>Who are you?<|end|>", "this is a note")
        assert _coloured(chat) == f"Very good, sir. Tea is a leaf.{end}Your butler, sir.{end}carries loss"


async def test_the_form_colours_all_if_all_is_learned(data: str) -> None:
    async with chatting(FakeSession(), (120, 36)) as chat:
        await _in_form(chat, data)
        await chat.press(*["down"] * 8, *"all")
        await chat.until(lambda: "Who are you?" in _coloured(chat))
        assert _coloured(chat) == (
            "What is tea?<|end|>↵<|assistant|>Very good, sir. Tea is a leaf.<|end|>↵"
            "Who are you?<|end|>↵<|assistant|>Your butler, sir.<|end|>↵carries loss"
        )


async def test_without_colours_the_form_marks_what_is_learned(data: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    async with chatting(FakeSession(), (120, 36)) as chat:
        await _in_form(chat, data)
        await chat.sees("⟦Very good, sir. Tea is a leaf.<|end|>⟧", "⟦carries loss⟧")


async def test_the_form_scrolls_to_further_samples(data: str) -> None:
    async with chatting(FakeSession()) as chat:
        await _in_form(chat, data)
        await chat.sees("What is tea?")
        assert "this is a note" not in chat.shown()
        await chat.press("pagedown")
        await chat.sees("this is a note")
        await chat.press("pageup")
        await chat.sees("butler.jsonl:1 ·")
        await chat.press("pagedown")
        assert "butler.jsonl:1 ·" not in chat.shown()
        await chat.press(*["down"] * 8, *"all")
        await chat.sees("butler.jsonl:1 ·")  # what is shown anew is shown from its beginning


async def test_the_form_says_what_the_model_cannot_show(data: str) -> None:
    session = FakeSession()
    session.trainer.unreadable = "the template changes the answer; leave the sample out"
    async with chatting(session, (120, 36)) as chat:
        await _in_form(chat, data)
        await chat.sees("butler.jsonl:1: the template changes the answer; leave the sample out")


async def test_the_form_shows_nothing_of_data_that_is_not_named_any_more(data: str) -> None:
    async with chatting(FakeSession(), (120, 36)) as chat:
        await _in_form(chat, data)
        await chat.sees("What is tea?")
        await chat.press("backspace")
        await chat.until(lambda: "What is tea?" not in chat.shown())


async def test_the_form_shows_the_samples_when_the_engine_is_up(data: str) -> None:
    comes = asyncio.Event()
    async with chatting(FakeSession(load=(comes, EngineReady(ENGINE))), (120, 36), ready=False) as chat:
        await chat.until(lambda: chat.app.screen is chat.conversation)
        await _in_form(chat, data)
        await chat.sees("as soon as the engine is up")
        comes.set()
        await chat.sees("What is tea?")


async def test_the_form_says_at_the_field_what_is_wrong(data: str) -> None:
    async with chatting(FakeSession(), (120, 36)) as chat:
        await chat.send("/train")
        await chat.until(lambda: isinstance(chat.app.screen, TrainScreen))
        await chat.press("down", "down", "down", "0")
        await chat.sees("give a whole number from 1 to 4096")


async def test_the_form_starts_the_run(data: str) -> None:
    session = FakeSession()
    async with chatting(session) as chat:
        await chat.send("/train")
        await chat.until(lambda: isinstance(chat.app.screen, TrainScreen))
        await chat.press(*data, "down", *"jeeves", "down", "down", "4", "enter")
        await chat.until(lambda: session.trainer.requests)
        assert session.trainer.requests[0].name == "jeeves"
        assert session.trainer.requests[0].settings == {"rank": 4}


async def test_no_form_opens_while_a_training_that_was_asked_for_waits(data: str) -> None:
    goes_on = asyncio.Event()
    session = FakeSession(["Hello", goes_on, "."])
    async with chatting(session) as chat:
        await chat.send("Hi")
        await chat.sees("Hello")
        await chat.send(f"/train {data}")
        await chat.send("/train")
        await chat.sees("The training is about to begin.")
        assert chat.app.screen is chat.conversation
        goes_on.set()
        await chat.until(lambda: session.training.is_on)
        await chat.rests()
        await chat.send("/train")
        await chat.until(lambda: isinstance(chat.app.screen, TrainingScreen))


async def test_keys_that_come_all_at_once_act_in_their_order(data: str) -> None:
    async with chatting(FakeSession()) as chat:
        for field in (chat.prompt, None):
            if field is None:
                await _in_form(chat, "")
            keys = ["a", "b", "backspace", "left", "c", "end", "d", "e", "backspace"]
            for key in keys:  # as a terminal sends what was typed while the screen was busy
                chat.app.post_message(events.Key(key, key if len(key) == 1 else None))
            await chat.sees("cad")
            if field is not None:
                field.clear()


async def test_the_form_completes_a_path_and_stays_without_data(data: str) -> None:
    async with chatting(FakeSession()) as chat:
        await chat.send("/train")
        await chat.until(lambda: isinstance(chat.app.screen, TrainScreen))
        await chat.press("enter")
        await chat.sees("is needed")
        await chat.press(*"but")
        await chat.sees("butler.jsonl")


async def test_a_path_into_nobodys_home_has_no_completion() -> None:
    assert await _Files().get_suggestion("~nobody-here/x") is None


def test_who_leaves_the_chat_is_told_how_a_training_goes_on(
    data: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def open_session(settings: object, resume: str | None) -> FakeSession:
        session = FakeSession()
        await session.command(f"/train {data}")
        await session.close()
        return session

    monkeypatch.setattr(tui, "open_session", open_session)
    monkeypatch.setattr(tui.ChatApp, "run", lambda app: asyncio.run(app._open_session()) and None)
    assert tui.run(lambda: pytest.fail("run itself loads no settings")) == 0
    assert "mp13chat: the training of butler ends with the engine's last chat" in capsys.readouterr().err
