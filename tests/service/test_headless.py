"""`mp13chat` without a screen, around a scripted engine: what goes to stdout, to stderr, and the exit code."""

import asyncio
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mp13.chat.cli import mp13chat
from mp13.chat.conversation.store import ConversationStore
from mp13.errors import ContextError
from mp13.library.paths import data_dir
from mp13.service import launcher
from tests.fakes.command import Command, Outcome, Terminal
from tests.fakes.fake_adapter import make_adapter
from tests.fakes.fake_client import FakeHost

ROOT = Path(__file__).parents[2]


Run = Callable[..., Outcome]


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeHost:
    scripted = FakeHost()
    monkeypatch.setattr(launcher, "connect", scripted)
    monkeypatch.setenv("MP13_MODEL", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return scripted


@pytest.fixture
def run(host: FakeHost, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command with these arguments; stdin is a terminal unless some text is piped in."""

    command = Command(monkeypatch, capsys)

    def call(*arguments: str, stdin: str | None = None) -> Outcome:
        return command.run(mp13chat.main, *arguments, stdin=Terminal() if stdin is None else io.StringIO(stdin))

    return call


def test_the_answer_is_on_stdout_and_the_rest_on_stderr(run: Run) -> None:
    code, out, err = run("-p", "hi")
    assert (code, out) == (0, "an answer\n")
    assert err == "mp13chat: reading weights\n[base · 38 tok/s · 12 cached]\n"


def test_json_is_one_object_a_turn_with_all_that_produced_it(run: Run) -> None:
    make_adapter("pirate")
    code, out, err = run("-p", "hi", "--adapter", "pirate:0.5", "--set", "temperature=0.1", "--set", "seed=3", "--json")
    answer = json.loads(out)
    assert code == 0
    assert answer.keys() == {"text", "token_ids", "finish_reason", "adapters", "provenance", "metrics"}
    assert (answer["text"], answer["token_ids"], answer["adapters"]) == ("an answer", [1, 2, 0], "pirate:0.5")
    assert answer["provenance"]["adapters"][0].keys() == {"name", "digest", "weight"}
    assert (answer["provenance"]["sampling"]["temperature"], answer["provenance"]["seed"]) == (0.1, 3)
    assert answer["metrics"]["cached_tokens"] == 12
    assert "[" not in err


def test_what_the_engine_warns_of_is_on_stderr(run: Run) -> None:
    make_adapter("odd", "foreign")
    assert "mp13chat: odd: of another base\n" in run("-p", "hi", "--adapter", "odd").err


def test_what_is_piped_in_is_the_prompt(run: Run, host: FakeHost) -> None:
    assert run(stdin="from a pipe\n").out == "an answer\n"
    assert host.requests[0].messages[0].content == "from a pipe"


def test_what_is_piped_in_follows_the_prompt_of_p(run: Run, host: FakeHost) -> None:
    run("-p", "Summarize:", stdin="some\ntext\n")
    run("-p", "alone", stdin="")
    assert [request.messages[-1].content for request in host.requests] == ["Summarize:\n\nsome\ntext", "alone"]


def test_a_prompt_that_looks_like_a_command_is_a_prompt(run: Run, host: FakeHost) -> None:
    assert run("-p", "/quit").code == 0
    assert host.requests[0].messages[0].content == "/quit"


def test_a_script_runs_prompts_and_commands_in_one_conversation(run: Run, host: FakeHost, tmp_path: Path) -> None:
    make_adapter("pirate")
    script = tmp_path / "script"
    script.write_text("# a comment\nfirst\n\n/adapter pirate\nsecond\n//literal\n/quit\nnever\n")
    code, out, err = run("--script", str(script), "--json")
    assert code == 0
    assert [json.loads(line)["adapters"] for line in out.splitlines()] == ["base", "pirate", "pirate"]
    assert [m.content for m in host.requests[-1].messages] == ["first", "an answer", "second", "an answer", "/literal"]
    assert "pirate answers from here on" in err


def test_an_adapter_that_is_nowhere_is_refused_before_the_model_loads(run: Run, host: FakeHost) -> None:
    assert run("-p", "hi", "--adapter", "nobody").code == 1
    assert host.clients == []


def test_a_mark_of_utf8_before_a_script_is_no_text(run: Run, host: FakeHost, tmp_path: Path) -> None:
    (tmp_path / "script").write_bytes(b"\xef\xbb\xbf# a comment\r\nfirst\r\n")
    assert run("--script", str(tmp_path / "script")).code == 0
    assert host.requests[-1].messages[-1].content == "first"


def test_a_script_stops_at_what_fails_and_says_where(run: Run, host: FakeHost, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("first\n/adaptor pirate\nsecond\n")
    code, out, err = run("--script", str(script))
    assert (code, out) == (2, "an answer\n")
    assert err.endswith(f"mp13chat: {script}:2: unknown command /adaptor; did you mean /adapter?\n")
    host.answers = [[ContextError("the prompt has 600 tokens and the context 512")]]
    assert run("--script", str(script)).code == 1


def test_a_script_without_a_line_is_refused_before_the_model_loads(run: Run, host: FakeHost, tmp_path: Path) -> None:
    (tmp_path / "script").write_text("# nothing\n\n")
    code, _, err = run("--script", str(tmp_path / "script"))
    assert (code, host.clients) == (2, [])
    assert "says nothing to do; write a prompt or a command on each line" in err


def test_conversations_are_kept_and_resumed(run: Run, host: FakeHost) -> None:
    run("-p", "one")
    run("-p", "two", "--resume")
    assert [m.content for m in host.requests[-1].messages] == ["one", "an answer", "two"]
    with ConversationStore() as store:
        (info,) = store.conversations()
    run("--resume", info.id[:6], "-p", "three")
    assert len(host.requests[-1].messages) == 5


def test_with_no_log_nothing_is_kept(run: Run) -> None:
    assert run("-p", "hi", "--no-log").code == 0
    assert not (data_dir() / "conversations.db").exists()


def test_what_the_model_writes_cannot_act_on_the_terminal(run: Run, host: FakeHost) -> None:
    host.answers = [["\x1b]0;owned\x07", "red \x1b[31m", "\u202etext\x9b2J"]] * 2
    assert run("-p", "hi").out == "red text\n"
    out = run("-p", "hi", "--json").out
    assert out.isascii()
    assert "\x1b" not in out
    assert json.loads(out)["text"].startswith("\x1b]0;owned")


def test_the_version_is_printed(run: Run) -> None:
    import mp13

    assert run("--version") == (0, f"mp13chat {mp13.__version__}\n", "")


def test_every_option_is_explained(run: Run) -> None:
    code, out, _ = run("--help")
    assert code == 0
    for option in ("-p", "--adapter", "--model", "--set", "--json", "--no-log", "--script", "--resume", "--version"):
        assert option in out


def test_interrupting_keeps_what_came_and_exits_130(run: Run, host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupts(asyncio.Event):
        async def wait(self) -> bool:  # type: ignore[override]
            import signal

            signal.raise_signal(signal.SIGINT)
            return await super().wait()

    host.answers = [["half ", Interrupts()], ["half ", Interrupts()]]
    code, out, err = run("-p", "hi")
    assert (code, out) == (130, "half \n")
    assert "[base · stopped]" in err
    code, out, _ = run("-p", "hi", "--json")
    assert (code, json.loads(out)["finish_reason"]) == (130, "abort")
    with ConversationStore() as store:
        assert store.turns(store.find("latest"))[-1].finish_reason == "abort"


def test_a_terminal_opens_the_screen_with_settings_that_load_later(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from mp13.chat.tui import app

    opened: list[tuple[float, str | None]] = []

    def screen(settings: Callable[[], object], resume: str | None, theme: str) -> int:
        opened.append((settings().top_p, resume))  # type: ignore[attr-defined]
        return 0

    monkeypatch.setattr(app, "run", screen)
    monkeypatch.setattr(sys, "stdout", Terminal())
    assert run("--set", "top_p=0.5", "--resume").code == 0
    assert opened == [(0.5, "latest")]


def test_without_a_terminal_the_screen_is_refused(run: Run) -> None:
    code, _, err = run()
    assert (code, "give -p TEXT" in err) == (2, True)


def piped(command: list[str], **options: object) -> "subprocess.Popen[bytes]":
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
    return subprocess.Popen([sys.executable, "-c", *command], env=environment, **options)  # type: ignore[call-overload,no-any-return]


WITH_FAKE = (
    "import sys\n"
    "from mp13.service import launcher\n"
    "from tests.fakes.fake_client import FakeHost\n"
    "launcher.connect = FakeHost(['word '] * 50_000)\n"
    "from mp13.chat.cli.mp13chat import main\n"
    "main()\n"
)


def test_a_reader_that_goes_away_ends_it_quietly(tmp_path: Path) -> None:
    with piped([WITH_FAKE, "-p", "hi", "--model", str(tmp_path)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
               stderr=subprocess.PIPE) as chat:  # fmt: skip
        assert chat.stdout is not None
        assert chat.stderr is not None
        chat.stdout.read(5)
        chat.stdout.close()
        err = chat.stderr.read().decode()
    assert chat.returncode == 1
    assert "Error" not in err


def test_a_mark_of_utf8_before_what_is_piped_in_is_no_text(tmp_path: Path) -> None:
    command = [WITH_FAKE.replace("50_000", "2"), "--model", str(tmp_path)]
    with piped(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as chat:
        chat.communicate(b"\xef\xbb\xbfhi\r\n", timeout=60)
    assert chat.returncode == 0
    with ConversationStore() as store:
        assert store.turns(store.find("latest"))[0].text == "hi"


def test_a_pipe_that_stays_open_does_not_hold_up_a_prompt(tmp_path: Path) -> None:
    started = time.monotonic()
    with piped([WITH_FAKE, "-p", "hi", "--model", str(tmp_path), "--json", "--no-log"], stdin=subprocess.PIPE,
               stdout=subprocess.PIPE, stderr=subprocess.PIPE) as chat:  # fmt: skip
        assert chat.stdout is not None
        assert chat.stderr is not None
        assert json.loads(chat.stdout.read())["text"].startswith("word ")
        assert b"nothing came on standard input" in chat.stderr.read()
        assert chat.wait(20) == 0
    assert time.monotonic() - started < 30


def test_several_mixes_answer_one_after_the_other_under_their_names(run: Run, host: FakeHost) -> None:
    make_adapter("pirate")
    host.answers, host.order = [["A", "rr"], ["Hel", "lo"]], [1, 0]
    code, out, err = run("-p", "hi", "--compare", "base", "--compare", "pirate:0.5")
    assert (code, out) == (0, "[base]\nHello\n[pirate:0.5]\nArr\n")
    assert err.endswith("[base · 38 tok/s · 12 cached]\n[pirate:0.5 · 38 tok/s · 12 cached]\n")


def test_a_comparison_as_json_is_one_object_an_answer_in_the_order_of_the_mixes(run: Run, host: FakeHost) -> None:
    make_adapter("pirate")
    host.order = [1, 0]
    out = run("-p", "hi", "--compare", "pirate", "--compare", "base", "--json").out
    answers = [json.loads(line) for line in out.splitlines()]
    assert [answer["adapters"] for answer in answers] == ["pirate", "base"]
    assert [len(answer["provenance"]["adapters"]) for answer in answers] == [1, 0]
    with ConversationStore() as store:
        path = store.turns(store.find("latest"))
        assert [turn.mix for turn in path] == ["base", "pirate"]
        assert [turn.mix for turn in store.tree(store.find("latest")).turns[1:]] == ["pirate", "base"]


def test_what_came_of_a_comparison_that_fails_is_printed(run: Run, host: FakeHost) -> None:
    make_adapter("pirate")
    host.answers = [["half ", ContextError("the context is full")]]
    code, out, err = run("-p", "hi", "--compare", "base", "--compare", "pirate")
    assert (code, out) == (1, "[base]\nhalf \n")
    assert "[base · stopped]" in err
    assert err.endswith("mp13chat: the context is full\n")


def test_a_diff_follows_the_answer_in_marks_or_as_an_object(run: Run, host: FakeHost) -> None:
    make_adapter("pirate")
    code, out, _ = run("-p", "hi", "--adapter", "pirate", "--diff")
    assert code == 0
    assert out.startswith("an answer\npirate beside base · mean KL 0.167 nats · 33% of 3 tokens turned\n")
    assert "[t1 |hm]t2 t0 " in out
    answer, diff = map(
        json.loads, run("-p", "hi", "--adapter", "pirate", "--diff", "pirate:0.5", "--json").out.splitlines()
    )
    assert (answer["adapters"], diff["mix"], diff["other"]) == ("pirate", "pirate", "pirate:0.5")
    assert [token["is_turned"] for token in diff["tokens"]] == [True, False, False]
    code, _, err = run("-p", "hi", "--diff")
    assert (code, "mp13chat: --diff: the last answer is base's own" in err) == (2, True)


@pytest.mark.parametrize("flags", [("--compare", "base"), ("--diff",), ("--json",)])
def test_flags_that_need_a_prompt_say_so(run: Run, flags: tuple[str, ...]) -> None:
    code, _, err = run(*flags)
    assert (code, f"{flags[0]} needs a prompt" in err) == (2, True)


def test_a_comparison_needs_two_mixes_and_no_script(run: Run, tmp_path: Path) -> None:
    assert run("-p", "hi", "--compare", "base").code == 2
    (tmp_path / "script").write_text("hi\n")
    code, _, err = run("--script", str(tmp_path / "script"), "--compare", "base", "--compare", "a")
    assert (code, "write a line /compare" in err) == (2, True)


@pytest.mark.parametrize(
    "flags",
    [("--compare", "a:", "--compare", "b"), ("--compare", "a", "--compare", "a:1"), ("--diff", "a b"), ("--diff", "+")],
)
def test_mixes_that_are_none_are_refused_before_an_engine_loads(run: Run, host: FakeHost, flags: list[str]) -> None:
    assert run("-p", "hi", *flags).code == 2
    assert host.clients == []


def test_a_script_compares_keeps_and_takes_apart(run: Run, host: FakeHost, tmp_path: Path) -> None:
    make_adapter("pirate")
    script = tmp_path / "script"
    script.write_text("/compare base pirate hi there\n/keep pirate\n/diff\ngo on\n/compare base pirate\n")
    code, out, err = run("--script", str(script), "--json")
    objects = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [found.get("adapters", "diff") for found in objects] == ["base", "pirate", "diff", "base", "base", "pirate"]
    assert "goes on with the answer of pirate" in err
    assert [message.content for message in host.comparisons[1].messages] == ["hi there", "an answer", "go on"]


def test_what_turns_out_about_an_adapter_is_said_once(run: Run, tmp_path: Path) -> None:
    make_adapter("idle", "idle")
    script = tmp_path / "script"
    script.write_text("one\ntwo\n")
    _, _, err = run("--script", str(script), "--adapter", "idle")
    assert err.count("idle: it changed nothing measurable") == 1
    assert "[idle (no effect) · 38 tok/s · 12 cached]" in err
