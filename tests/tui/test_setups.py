"""The sampling panel, the form of a template, and the switch to another model."""

import asyncio
from pathlib import Path

import pytest
from syrupy.assertion import SnapshotAssertion
from textual import events

from mp13.chat.commands import setups
from mp13.chat.conversation.turn import EngineReady, LoadProgress
from mp13.chat.library.model_offers import Offer
from mp13.chat.settings.templates import templates_folder
from mp13.chat.tui.screens.form import Form
from mp13.chat.tui.screens.models import ModelPicker
from mp13.chat.tui.screens.sampling import SamplingScreen
from mp13.chat.tui.screens.template import TemplateForm
from mp13.errors import AdapterError
from tests.fakes.fake_session import ENGINE, FakeSession, answer
from tests.tui.conftest import Chat, chatting
from tests.tui.test_screens import Size, at_each_size


def field(chat: Chat, key: str) -> "Form":
    assert isinstance(chat.app.screen, Form)
    return next(one for one in chat.app.screen._fields if one.key == key)  # type: ignore[return-value]


class TestSampling:
    async def opened(self, chat: Chat) -> None:
        await chat.press("f6")
        await chat.sees("How answers are sampled")

    async def test_every_parameter_is_there_and_what_is_changed_is_kept(self) -> None:
        async with chatting(FakeSession()) as chat:
            await self.opened(chat)
            for key in ("temperature", "top_p", "min_p", "frequency_penalty", "stop_token_ids", "ignore_eos", "seed"):
                assert key in chat.shown()
            await chat.press("backspace", "2", "down", "down", "backspace", "4", "0", "enter")
            await chat.sees("temperature = 0.2, top_k = 40")
            assert (chat.session.settings.temperature, chat.session.settings.top_k) == (0.2, 40)

    async def test_a_value_that_cannot_be_is_told_at_its_field_and_nothing_is_kept(self) -> None:
        async with chatting(FakeSession(), size=(120, 36)) as chat:
            await self.opened(chat)
            field(chat, "top_p").input.value = "7"
            await chat.sees("at most 1")
            await chat.press("enter")
            assert isinstance(chat.app.screen, SamplingScreen)
            assert field(chat, "top_p").input.has_focus
            field(chat, "top_p").input.value = "x"
            await chat.sees("give a number")
            field(chat, "top_p").input.value = "0.5"
            await chat.press("enter")
            await chat.sees("top_p = 0.5")

    async def test_two_values_that_do_not_go_together_are_told(self) -> None:
        async with chatting(FakeSession(), size=(120, 36)) as chat:
            await self.opened(chat)
            field(chat, "min_tokens").input.value = "900"
            await chat.sees("is more than max_tokens")
            field(chat, "max_tokens").input.value = "1000"
            await chat.until(lambda: "is more than" not in chat.shown())

    async def test_ctrl_r_puts_the_defaults_back(self) -> None:
        async with chatting(FakeSession()) as chat:
            await chat.say("/sampling temperature=0.1 top_k=3")
            await self.opened(chat)
            await chat.press("ctrl+r", "enter")
            await chat.sees("temperature = 0.7, top_k = 0")

    async def test_esc_leaves_everything_as_it_was(self) -> None:
        async with chatting(FakeSession()) as chat:
            await self.opened(chat)
            await chat.press("backspace", "2", "escape")
            await chat.until(lambda: not isinstance(chat.app.screen, SamplingScreen))
            assert chat.session.settings.temperature == 0.7

    @at_each_size
    async def test_looks_like_this(self, size: Size, picture: SnapshotAssertion) -> None:
        async with chatting(FakeSession(), size=size) as chat:
            await self.opened(chat)
            field(chat, "top_p").input.value = "7"
            await chat.sees("at most 1")
            assert await chat.still() == picture


class TestTemplates:
    @pytest.fixture(autouse=True)
    def review(self) -> None:
        templates_folder().mkdir(parents=True)
        (templates_folder() / "review.md").write_text("Review this {{language}} code for {{what}}.")
        (templates_folder() / "shorter.md").write_text("Shorter: {{last_answer}}")

    async def test_a_form_asks_for_the_values_and_the_prompt_is_sent(self) -> None:
        async with chatting(FakeSession()) as chat:
            await chat.send("/template review")
            await chat.sees("language", "what", "Review this {{language}} code")
            await chat.press("C", "enter", *"it's bugs", "enter")
            await chat.sees("Review this C code for it's bugs.", "Hello.")
            assert chat.session.asked == [("base", "Review this C code for it's bugs.")]

    async def test_values_that_were_given_stand_in_the_form(self) -> None:
        async with chatting(FakeSession()) as chat:
            await chat.send("/template review language=C")
            await chat.sees("Review this {{language}} code")
            await chat.press(*"bugs", "enter")
            await chat.sees("Review this C code for bugs.", "Hello.")

    async def test_a_value_for_nothing_is_said(self) -> None:
        async with chatting(FakeSession()) as chat:
            await chat.say("/template review langage=C")
            await chat.sees("has no {{langage}}; did you mean 'language'?")

    async def test_a_field_left_empty_keeps_the_form(self) -> None:
        async with chatting(FakeSession()) as chat:
            await chat.send("/template review")
            await chat.sees("Review this {{language}} code")
            await chat.press("C", "enter", "enter")
            await chat.sees("is needed")
            assert isinstance(chat.app.screen, TemplateForm)

    async def test_one_whose_values_are_known_asks_for_nothing(self) -> None:
        async with chatting(FakeSession(turns=[answer("A long answer.")])) as chat:
            await chat.say("/template shorter")
            assert chat.session.asked == [("base", "Shorter: A long answer.")]

    async def test_a_wrong_name_is_said(self) -> None:
        async with chatting(FakeSession()) as chat:
            await chat.say("/template revieu")
            await chat.sees("did you mean 'review'?")

    @at_each_size
    async def test_looks_like_this(self, size: Size, picture: SnapshotAssertion) -> None:
        async with chatting(FakeSession(), size=size) as chat:
            await chat.send("/template review")
            await chat.sees("Review this {{language}} code")
            assert await chat.still() == picture


class TestModels:
    @pytest.fixture
    def other(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
        """A folder called other, among the models that are here."""
        monkeypatch.chdir(tmp_path)
        Path("other").mkdir()
        found = [
            Offer("Qwen/Qwen3-0.6B", "1.5 GB, bfloat16, Hugging Face cache"),
            Offer("EleutherAI/gpt-j-6b", "24 GB, Hugging Face cache", "its attention cannot be replaced"),
            Offer("other", "0.5 GB, bfloat16, data folder"),
            Offer("starter", "SmolLM2-135M-Instruct; here"),
        ]
        monkeypatch.setattr(setups, "models_here", lambda now: found)
        return "other"

    def worked(self, session: FakeSession) -> FakeSession:
        session._connection._proven = session.settings
        return session

    async def test_what_is_chosen_loads_with_its_progress_and_answers(self, other: str) -> None:
        session, gate = self.worked(FakeSession()), asyncio.Event()
        async with chatting(session) as chat:
            await chat.press("f8")
            await chat.sees("Qwen/Qwen3-0.6B", "its attention cannot be replaced", "● starter")
            info = EngineReady(ENGINE.model_copy(update={"model": "/models/other"}))
            session._load = [LoadProgress("reading weights", 0.4), gate, info]
            await chat.press(*"oth", "enter")
            await chat.sees("reading weights", "40%", "Esc")
            gate.set()
            await chat.until(lambda: "other" in chat.status and "40%" not in chat.status)
            assert session.settings.model == "other"

    async def test_esc_while_it_loads_brings_the_one_before_back(self, other: str) -> None:
        session = self.worked(FakeSession(turns=[answer("Said before.")]))
        async with chatting(session) as chat:
            session._load = [LoadProgress("reading weights", 0.4), asyncio.Event()]
            await chat.send("/model other")
            await chat.sees("40%")
            session._load = [EngineReady(ENGINE)]
            await chat.press("escape")
            await chat.rests()
            await chat.sees("The model stays the one before", "smollm2-135m-instruct", "Said before.")
            assert session.settings.model == "starter"
            await chat.say("still there?")
            await chat.sees("Hello.")

    async def test_an_adapter_that_does_not_fit_the_new_model_is_said(self, other: str) -> None:
        session = self.worked(FakeSession(mix="pirate"))

        async def refuse(text: str) -> str:
            raise AdapterError("adapter 'pirate' does not fit: its matrices are 576 wide, the model's 1024")

        async with chatting(session) as chat:
            session._load = [EngineReady(ENGINE.model_copy(update={"model": "/models/other"}))]
            session.set_mix = refuse  # type: ignore[method-assign]
            await chat.say("/model other")
            await chat.sees("does not fit: its matrices are 576 wide")

    async def test_enter_typed_at_once_behind_a_name_takes_that_name(self, other: str) -> None:
        async with chatting(self.worked(FakeSession())) as chat:
            await chat.press("f8")
            await chat.sees("Qwen/Qwen3-0.6B")
            for key in (*"oth", "enter"):
                chat.app.post_message(events.Key(key, key if len(key) == 1 else None))
            await chat.until(lambda: chat.session.settings.model == "other")

    async def test_what_is_nowhere_is_said_and_the_picker_stays(self, other: str) -> None:
        async with chatting(FakeSession()) as chat:
            await chat.press("f8")
            await chat.sees("Qwen/Qwen3-0.6B")
            await chat.press(*"./nowhere", "enter")
            await chat.sees("there is no model './nowhere'")
            assert isinstance(chat.app.screen, ModelPicker)

    @at_each_size
    async def test_looks_like_this(self, other: str, size: Size, picture: SnapshotAssertion) -> None:
        async with chatting(FakeSession(), size=size) as chat:
            await chat.press("f8")
            await chat.sees("Qwen/Qwen3-0.6B")
            assert await chat.still() == picture
