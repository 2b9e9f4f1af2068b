"""The table of slash commands: exact names, one help, one completion."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from mp13.chat.commands.table import COMMANDS, complete, is_command, prompt_of
from mp13.chat.conversation.session import ChatSession
from mp13.chat.settings.load import load_settings
from mp13.chat.settings.schema import Settings
from mp13.errors import AdapterError, MixError, ModelError, Mp13Error
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
        ("/set temprature=1", "unknown setting 'temprature' in /set; did you mean 'temperature'?"),
        ("/set temprature", "unknown setting 'temprature'; did you mean 'temperature'?"),
        ("/set top_p=7", "top_p = 7.0 cannot be used; .*at most 1 .from /set."),
        ("/set log=false", "log cannot change in a running chat"),
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
    assert (await session.command("/set temperature = 0.2")).message == "temperature = 0.2"
    assert session.settings.sampling().temperature == 0.2
    assert (await session.command("/set temperature")).message.startswith("temperature = 0.2  0 is greedy")
    everything = (await session.command("/set")).message
    assert [line.split(" = ")[0] for line in everything.split("\n")] == list(Settings.model_fields)
    assert "top_p = 0.9" in everything
    assert "next prompt" in (await session.command("/set max_model_len=64")).message
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
        ("/s", ["/system", "/set"]),
        ("/adapter ", ["/adapter base", "/adapter json", "/adapter pirate"]),
        ("/adapter p", ["/adapter pirate"]),
        ("/adapter json:0.5+p", ["/adapter json:0.5+pirate"]),
        ("/set temp", ["/set temperature="]),
        ("/zzz ", []),
        ("//he", []),
        ("hello", []),
        ("/new ", []),
    ],
)
async def test_completion_offers_what_can_follow(session: ChatSession, line: str, completed: list[str]) -> None:
    assert complete(session, line) == completed
