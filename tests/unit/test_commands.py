"""The table of slash commands: exact names, one help, one completion."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from mp13.chat.commands.table import COMMANDS, complete, is_command, prompt_of
from mp13.chat.conversation.ask import Ask
from mp13.chat.conversation.session import ChatSession
from mp13.chat.settings.load import load_settings
from mp13.chat.settings.schema import Settings
from mp13.errors import AdapterError, ConfigError, MixError, ModelError, Mp13Error
from tests.fakes.fake_adapter import make_adapter
from tests.fakes.fake_client import FakeHost


@pytest_asyncio.fixture
async def session(tmp_path: Path) -> AsyncIterator[ChatSession]:
    for name, kind in (("pirate", "LORA"), ("json", "LORA"), ("odd", "VERA")):
        make_adapter(name, peft_type=kind)
    opened = ChatSession.open(load_settings({"model": str(tmp_path)}), connect=FakeHost())  # type: ignore[arg-type]
    yield opened
    await opened.close()


async def ask(session: ChatSession, text: str) -> None:
    async for _ in session.ask(text):
        pass


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("/adaptor pirate", "unknown command /adaptor; did you mean /adapter?"),
        ("/ADAPTER pirate", "unknown command /ADAPTER"),
        ("/a pirate", "unknown command /a"),
        ("/quti", "unknown command /quti; did you mean /quit?"),
        ("/", "unknown command /; /help lists them"),
        ("/zzz", "unknown command /zzz; /help lists them"),
        ("/set temprature=1", "unknown setting 'temprature'; did you mean 'temperature'?"),
        ("/set temprature 1", "unknown setting 'temprature'; did you mean 'temperature'?"),
        ("/set temprature", "unknown setting 'temprature'; did you mean 'temperature'?"),
        ("/set top_p=7", "top_p = 7.0 cannot be used; .*at most 1 .from this chat."),
        ("/set log=false", "log cannot change in a running chat"),
        ("/set stop=" + "[" * 100_000, "stop = .* cannot be used"),
        ("/import " + "a" * 300, "cannot name a file or folder .File name too long"),
        ("/import '\0'", "cannot name a file or folder .embedded null byte"),
        ("/import ~nobody-here/x", "'~nobody-here/x' cannot name a file or folder"),
        ("/model " + "a" * 300, "cannot name a file or folder .File name too long"),
        ("/new now", "/new takes no argument, but 'now' was given"),
        ("/resume zz", "there is no conversation to resume"),
    ],
)
async def test_a_mistake_is_named_and_nothing_is_done(session: ChatSession, line: str, sentence: str) -> None:
    before = (session.mix, session.system, session.settings, session.conversation_id)
    with pytest.raises(Mp13Error, match=sentence):
        await session.command(line)
    assert (session.mix, session.system, session.settings, session.conversation_id) == before


async def test_adapter_switches_and_alone_lists(session: ChatSession) -> None:
    result = await session.command("/adapter  pirate:0.50+json ")
    assert (session.mix, result.mix_changed) == ("json+pirate:0.5", True)
    listed = (await session.command("/adapter")).message
    assert "json+pirate:0.5 answers now" in listed
    assert "odd  cannot be used" in listed
    for line, error in (("/adapter a+", MixError), ("/adapter nobody", AdapterError), ("/adapter odd", AdapterError)):
        with pytest.raises(error):
            await session.command(line)
    assert session.mix == "json+pirate:0.5"


async def test_system_sets_shows_and_removes(session: ChatSession) -> None:
    assert (await session.command("/system")).message == "no system prompt"
    await session.command("/system be brief\nand kind")
    assert session.system == "be brief\nand kind"
    assert "be brief" in (await session.command("/system")).message
    await session.command("/system -")
    assert session.system is None


async def test_set_changes_and_shows(session: ChatSession) -> None:
    assert (await session.command("/set temperature 0.3")).message == "temperature = 0.3"
    assert (await session.command("/set temperature = 0.2")).message == "temperature = 0.2"
    assert session.settings.sampling().temperature == 0.2
    assert (await session.command("/set temperature")).message.startswith("temperature = 0.2  0 is greedy")
    everything = (await session.command("/set")).message
    assert [line.split(" = ")[0] for line in everything.split("\n")] == list(Settings.model_fields)
    assert "top_p = 0.9" in everything
    other = await session.command("/set max_model_len=64")
    assert (other.message, other.engine_changed) == ("max_model_len = 64; the engine starts anew with it", True)
    assert not (await session.command("/set max_model_len=64")).engine_changed
    assert (await session.command("/set adapter=pirate")).mix_changed
    assert session.mix == "pirate"
    await session.command("/set system=be brief")
    assert session.system == "be brief"
    with pytest.raises(ModelError, match=r"no model '\./nowhere'"):
        await session.command("/set model=./nowhere")


async def test_new_and_resume_change_the_turns(session: ChatSession) -> None:
    await ask(session, "hello there")
    first = session.conversation_id
    assert (await session.command("/new")).turns_changed
    assert session.turns == []
    await ask(session, "second")
    listed = (await session.command("/resume")).message.split("\n")
    assert [line.split()[0] for line in listed] == [session.conversation_id[:8], first[:8]]
    assert "'hello there'" in listed[1]
    assert (await session.command(f"/resume {first[:8]}")).turns_changed
    assert [turn.text for turn in session.turns] == ["hello there", "an answer"]
    assert complete(session, f"/resume {first[:3]}")[-1] == f"/resume {first[:8]}"


async def test_help_names_every_command_and_quit_quits(session: ChatSession) -> None:
    message = (await session.command("/help")).message
    for command in COMMANDS.values():
        assert f"{command.name} {command.hint}" in message
        assert command.help in message
    assert (await session.command("/quit")).quit


def test_every_line_is_a_command_or_a_prompt() -> None:
    lines = {"/help": True, "/adaptor x": True, "/": True, "//help": False, "hi /help": False, "": False}
    assert {line: is_command(line) for line in lines} == lines
    assert prompt_of("//help me") == "/help me"
    assert prompt_of("help / me") == "help / me"


@pytest.mark.parametrize(
    ("line", "completed"),
    [
        ("/", list(COMMANDS)),
        ("/s", ["/system", "/set", "/sampling"]),
        ("/adapter ", ["/adapter base", "/adapter json", "/adapter pirate"]),
        ("/adapter p", ["/adapter pirate"]),
        ("/adapter json:0.5+p", ["/adapter json:0.5+pirate"]),
        ("/set temp", ["/set temperature="]),
        ("/compare base p", ["/compare base pirate"]),
        ("/compare base json:0.5+p", ["/compare base json:0.5+pirate"]),
        ("/diff p", ["/diff pirate"]),
        ("/adapters re", ["/adapters remove", "/adapters rename"]),
        ("/zzz ", []),
        ("//he", []),
        ("hello", []),
        ("/new ", []),
    ],
)
async def test_completion_offers_what_can_follow(session: ChatSession, line: str, completed: list[str]) -> None:
    assert complete(session, line) == completed


async def test_compare_says_what_is_to_be_played_and_keep_lists_and_chooses(session: ChatSession) -> None:
    asked = (await session.command("/compare base pirate:0.50 hello there")).ask
    assert asked == Ask("hello there", ("base", "pirate:0.50"))
    assert (await session.command("/keep")).message == "there is no answer yet"
    async for _ in session.compare(asked.mixes, asked.text):
        pass
    lines = (await session.command("/keep")).message.split("\n")
    assert lines == ["1  base  (kept)  an answer", "2  pirate:0.5  an answer"]
    assert (await session.command("/keep 2")).turns_changed
    assert session.turns[-1].mix == "pirate:0.5"
    assert (await session.command("/diff")).diff == await session.diff()


async def test_reload_says_what_it_took_from_the_disk(session: ChatSession) -> None:
    await session.set_mix("pirate")
    await ask(session, "hi")
    assert (await session.command("/reload")).message == "no adapter has changed since it was loaded"
    make_adapter("pirate", "other weights")
    message = (await session.command("/reload")).message
    assert message == f"pirate is loaded as it is on disk now ({session.adapters[0].digest[:12]})"


class TestAdapters:
    """`/adapters`: the verbs of `mp13 adapters`; what they do to the disk is tested with the library."""

    async def test_alone_and_with_list_it_shows_the_library_and_what_the_engine_has(self, session: ChatSession) -> None:
        await session.set_mix("pirate")
        await ask(session, "hi")
        message = (await session.command("/adapters")).message
        assert message == (await session.command("/adapters list")).message
        rows = {line.split()[0]: line for line in message.split("\n")}
        assert "in memory" in rows["pirate"]
        assert "on disk" in rows["json"]
        assert "unfit" in rows["odd"]
        assert all(len(line) <= 72 for line in message.split("\n") if not line.startswith("odd:"))

    async def test_one_is_shown_tagged_renamed_exported_and_removed(self, session: ChatSession, tmp_path: Path) -> None:
        assert "has the tags fun sea" in (await session.command("/adapters tag json sea fun")).message
        assert (await session.command("/adapters rename json data")).message == "json is called data now"
        shown = (await session.command("/adapters show data")).message
        assert "fun sea" in shown
        out = tmp_path / "a folder"
        assert str(out) in (await session.command(f"/adapters export data '{out}'")).message
        assert (out / "adapter_config.json").exists()
        assert (await session.command("/adapters remove data")).message.startswith("removed data")
        assert (await session.command(f"/adapters add '{out}' --name again --tag x")).message.startswith("added again")
        assert [adapter.name for adapter in session.available_adapters()] == ["again", "odd", "pirate"]

    async def test_check_says_whether_it_fits_the_engine_that_runs(self, session: ChatSession) -> None:
        assert "can be used" in (await session.command("/adapters check pirate")).message
        await ask(session, "hi")
        make_adapter("wrong", "unfit")
        assert "does not fit this model" in (await session.command("/adapters check wrong")).message
        assert "effect" in (await session.command("/adapters check pirate")).message
        assert "effect" not in (await session.command("/adapters check pirate --static")).message

    async def test_what_answers_is_neither_removed_nor_renamed(self, session: ChatSession) -> None:
        await session.set_mix("pirate:0.5+json")
        for line in ("/adapters remove pirate", "/adapters rename json other"):
            with pytest.raises(ConfigError, match="answers in this chat; choose another mix first"):
                await session.command(line)

    @pytest.mark.parametrize(
        ("line", "sentence"),
        [
            ("shwo", "/adapters: 'shwo' is none of .*show"),
            ("remove", "/adapters remove: missing NAME; write /adapters remove NAME"),
            ("list all", "unrecognized arguments: all"),
            ("show 'x", "close the quotation mark"),
            ("merge pirate", "say what to make"),
            ("merge pirate --rank x --name y", "invalid int value"),
            ("--help", "/adapters: "),
        ],
    )
    async def test_a_mistake_is_a_sentence(self, session: ChatSession, line: str, sentence: str) -> None:
        with pytest.raises(ConfigError, match=sentence):
            await session.command(f"/adapters {line}")


async def test_bytes_that_were_no_text_are_looked_for_and_kept_as_text_all_the_same(session: ChatSession) -> None:
    await ask(session, "hi")
    assert "nothing contains" in (await session.command("/find zz\udcff")).message
    assert "called" in (await session.command("/title a\ud800b")).message
    assert session.store is not None
    assert session.store.conversations()[0].title == "a?b"
