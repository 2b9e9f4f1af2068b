"""/sampling, /preset, /model, /template and /restart, without a screen."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from mp13.chat.conversation.ask import Ask
from mp13.chat.conversation.session import ChatSession
from mp13.chat.conversation.training_state import TrainingState
from mp13.chat.settings.load import load_settings
from mp13.chat.settings.presets import presets, presets_file
from mp13.chat.settings.templates import Template, templates_folder
from mp13.errors import Mp13Error
from tests.fakes.fake_adapter import make_adapter
from tests.fakes.fake_client import FakeHost


@pytest.fixture
def host() -> FakeHost:
    return FakeHost()


@pytest_asyncio.fixture
async def session(tmp_path: Path, host: FakeHost) -> AsyncIterator[ChatSession]:
    make_adapter("pirate")
    settings = load_settings({"model": str(tmp_path), "top_p": "0.8"})
    opened = ChatSession.open(settings, connect=host)  # type: ignore[arg-type]
    yield opened
    await opened.close()


async def ask(session: ChatSession, text: str) -> None:
    async for _ in session.ask(text):
        pass


def template(name: str, text: str) -> None:
    templates_folder().mkdir(parents=True, exist_ok=True)
    (templates_folder() / f"{name}.md").write_text(text)


class TestSampling:
    async def test_several_values_are_set_at_once(self, session: ChatSession) -> None:
        result = await session.command("""/sampling temperature=0.1 'stop=["a b", "c"]' seed=7""")
        sampling = session.settings.sampling()
        assert (sampling.temperature, sampling.stop, sampling.seed) == (0.1, ("a b", "c"), 7)
        assert result.message == 'temperature = 0.1, stop = ["a b", "c"], seed = 7'

    @pytest.mark.parametrize(
        ("line", "sentence"),
        [
            ("/sampling temperature=0.1 top_p=7", "top_p = 7.0 cannot be used"),
            ("/sampling temperature=0.1 min_tokens=900", "min_tokens = 900 is more than max_tokens"),
            ("/sampling dtype=float32", "'dtype' is not about sampling"),
            ("/sampling maxtokens=9", "'maxtokens' is not about sampling; did you mean 'max_tokens'"),
            ("/sampling temperature", "'temperature' is no KEY=VALUE"),
            ("/sampling stop='x", "close the quotation mark"),
        ],
    )
    async def test_of_values_that_cannot_be_used_none_is_set(
        self, session: ChatSession, line: str, sentence: str
    ) -> None:
        before = session.settings
        with pytest.raises(Mp13Error, match=sentence):
            await session.command(line)
        assert session.settings == before

    async def test_reset_goes_back_to_what_the_chat_began_with(self, session: ChatSession) -> None:
        await session.command("/sampling temperature=0.1 top_p=0.5")
        await session.command("/sampling reset")
        assert (session.settings.temperature, session.settings.top_p) == (0.7, 0.8)

    async def test_a_conversation_gone_on_with_samples_as_it_did(self, session: ChatSession) -> None:
        await session.command("/sampling temperature=0.1 top_k=5 top_p=0.5")
        await ask(session, "hello")
        first = session.conversation_id
        session.new()
        await session.command("/sampling temperature=0.9 top_k=0")
        await ask(session, "hello")
        session.resume(first)
        assert (session.settings.temperature, session.settings.top_k) == (0.1, 5)
        assert session.settings.seed is None


class TestPresets:
    async def test_mix_system_prompt_and_sampling_come_back_together(self, session: ChatSession) -> None:
        for line in ("/adapter pirate:0.5", "/system Be brief.", "/sampling temperature=0 'stop=[\"x\"]'"):
            await session.command(line)
        said = (await session.command("/preset save calm")).message
        assert said == "calm is kept: pirate:0.5 · system prompt 'Be brief.' · temperature 0.0, top_p 0.8, stop [\"x\"]"
        for line in ("/adapter base", "/system -", "/sampling reset"):
            await session.command(line)
        result = await session.command("/preset use calm")
        assert (session.mix, session.system, result.mix_changed) == ("pirate:0.5", "Be brief.", True)
        assert (session.settings.temperature, session.settings.stop) == (0.0, ("x",))

    async def test_one_kept_without_a_system_prompt_takes_it_away(self, session: ChatSession) -> None:
        await session.command("/preset save plain")
        await session.command("/system Be brief.")
        await session.command("/preset use plain")
        assert session.system is None

    async def test_where_its_adapter_is_gone_nothing_changes(self, session: ChatSession) -> None:
        presets_file().parent.mkdir(parents=True, exist_ok=True)
        presets_file().write_text('[lost]\nmix = "nobody"\nsystem = "s"\nsampling = {temperature = 0.0}\n')
        with pytest.raises(Mp13Error, match="nobody"):
            await session.command("/preset use lost")
        assert (session.mix, session.system, session.settings.temperature) == ("base", None, 0.7)

    async def test_they_are_listed_and_deleted(self, session: ChatSession) -> None:
        assert "no preset yet" in (await session.command("/preset")).message
        await session.command("/preset save calm")
        assert (await session.command("/preset list")).message.startswith("calm  base · no system prompt · temperature")
        await session.command("/preset delete calm")
        assert presets() == {}

    @pytest.mark.parametrize(
        ("line", "sentence"),
        [
            ("/preset use calm", "nothing is kept as 'calm'"),
            ("/preset delete calm", "nothing is kept as 'calm'"),
            ("/preset save", "cannot be done; write /preset save NAME"),
            ("/preset calm", "cannot be done; write /preset save NAME"),
            ("/preset save a/b", "a name has 1 to 64"),
        ],
    )
    async def test_what_cannot_be_is_said(self, session: ChatSession, line: str, sentence: str) -> None:
        with pytest.raises(Mp13Error, match=sentence):
            await session.command(line)


class TestTemplates:
    async def test_values_are_put_in_and_it_is_asked(self, session: ChatSession) -> None:
        template("review", "Review this {{language}} code for {{ what }}:\n{{language}}\n")
        result = await session.command("/template review language=C 'what=a {{language}} bug'")
        assert result.ask == Ask("Review this C code for a {{language}} bug:\nC")

    async def test_the_last_answer_is_known(self, session: ChatSession) -> None:
        template("shorter", "Say it in fewer words:\n{{last_answer}}")
        with pytest.raises(Mp13Error, match="write /template shorter last_answer=…"):
            await session.command("/template shorter")
        await ask(session, "hello")
        result = await session.command("/template shorter")
        assert result.ask == Ask(f"Say it in fewer words:\n{session.turns[-1].text}")

    async def test_alone_it_lists_them_with_their_variables(self, session: ChatSession) -> None:
        assert "no template yet; write one as" in (await session.command("/template")).message
        template("review", "{{language}} {{what}}")
        template("hello", "Hello.")
        assert (await session.command("/template")).message == "hello\nreview  language=… what=…"

    @pytest.mark.parametrize(
        ("line", "sentence"),
        [
            ("/template revue", "there is no template 'revue'; did you mean 'review'?"),
            ("/template ../config", "there is no template '../config'"),
            ("/template review", "write /template review language=… what=…"),
            ("/template review language=C wath=x", "has no {{wath}}; did you mean 'what'?"),
            ("/template empty", "is empty; write the prompt into it"),
            ("/template review x", "'x' is no KEY=VALUE"),
        ],
    )
    async def test_a_mistake_is_named(self, session: ChatSession, line: str, sentence: str) -> None:
        template("review", "{{language}} {{what}}")
        template("empty", "\n")
        with pytest.raises(Mp13Error) as error:
            await session.command(line)
        assert sentence in str(error.value)

    def test_what_is_no_variable_is_text(self) -> None:
        assert Template("x", "{a} {{1}} {{ b c }} {{ok}}").variables == ["ok"]


class TestModel:
    async def test_alone_it_lists_what_is_here(self, session: ChatSession) -> None:
        assert "SmolLM2-135M-Instruct" in (await session.command("/model")).message

    async def test_another_asks_for_another_engine_and_the_same_for_none(
        self, session: ChatSession, tmp_path: Path
    ) -> None:
        (tmp_path / "other").mkdir()
        assert (await session.command(f"/model {tmp_path / 'other'}")).engine_changed
        assert not (await session.command(f"/model {tmp_path / 'other'}")).engine_changed

    async def test_one_that_is_nowhere_is_refused(self, session: ChatSession) -> None:
        with pytest.raises(Mp13Error, match="there is no model 'nowhere'"):
            await session.command("/model nowhere")


async def test_restart_ends_the_engine_for_another(session: ChatSession, host: FakeHost) -> None:
    await ask(session, "hello")
    assert session.engine is not None
    assert (await session.command("/restart")).engine_changed
    assert session.engine is None
    assert host.clients[0].ended == "one of its chats starts it anew"
    async for _ in session.start():
        pass
    assert session.engine is not None


async def test_restart_leaves_an_engine_to_the_others_that_use_it(session: ChatSession, host: FakeHost) -> None:
    await ask(session, "hello")
    host.is_shared = True
    with pytest.raises(Mp13Error, match=r"another chat uses this engine.*mp13 stop"):
        await session.command("/restart")
    assert session.engine is not None and not host.clients[0].closed


async def test_restart_does_not_end_a_training(session: ChatSession) -> None:
    await ask(session, "hello")
    session.training.state = TrainingState("butler", "butler.jsonl", "butler", "starter")
    with pytest.raises(Mp13Error, match="butler is being trained"):
        await session.command("/restart")
    session.training.state = None
    assert session.engine is not None
