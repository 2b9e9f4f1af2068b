"""The chat in plain lines: a prompt or command a line, answers with badges, a Ctrl+C that loses nothing."""

import asyncio
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from mp13.chat.cli.background import Background
from mp13.chat.cli.plain import GREETING, PlainChat
from mp13.chat.conversation.diff import Diff, DiffToken
from mp13.chat.conversation.turn import EngineFailed, LoadNote, LoadProgress, Turn
from mp13.chat.ending import exit_when_told_to_end
from mp13.errors import ContextError, Mp13Error
from tests.fakes.fake_session import FakeSession, answer

Typed = str | type[BaseException] | Callable[[], str]


class Reader:
    """Types `lines`, then Ctrl+D."""

    def __init__(self, *lines: Typed) -> None:
        self._lines = list(lines)
        self.prompts: list[str] = []

    def __call__(self, prompt: str) -> str:
        self.prompts.append(prompt)
        line = self._lines.pop(0) if self._lines else EOFError
        if isinstance(line, str):
            return line
        if isinstance(line, type):
            raise line
        return line()


def chat(session: FakeSession, *lines: Typed) -> Reader:
    reader = Reader(*lines)
    with Background() as background:
        try:
            PlainChat(background, session, reader).run()
        finally:
            background.run(session.close())
    return reader


def shown(capsys: pytest.CaptureFixture[str]) -> tuple[str, str]:
    out, err = capsys.readouterr()
    return out.removeprefix(f"{GREETING}\n"), err


class TestAnswers:
    def test_an_answer_streams_and_its_badge_stands_under_it(self, capsys: pytest.CaptureFixture[str]) -> None:
        session = FakeSession(["Hel", "lo."])
        reader = chat(session, "hi", "  ", "//etc is a folder")
        assert session.asked == [("base", "hi"), ("base", "/etc is a folder")]
        out, err = shown(capsys)
        assert out == "Hello.\nHello.\n\n"
        assert err.count("[base · 38 tok/s · 120 cached]") == 2
        assert reader.prompts == ["base> "] * 4

    def test_nothing_is_rewritten_and_no_escape_reaches_the_terminal(self, capsys: pytest.CaptureFixture[str]) -> None:
        load = [LoadProgress("weights", 0.1), LoadProgress("weights", 0.9), *FakeSession()._load]
        chat(FakeSession(["a\x1b[31mb"], load=load), "hi")
        texts = shown(capsys)
        assert "ab\n" in texts[0]
        assert texts[1].count("weights") == 1
        assert all(line.isprintable() for text in texts for line in text.split("\n"))

    def test_what_was_done_before_the_engine_loads_is_said(self, capsys: pytest.CaptureFixture[str]) -> None:
        chat(FakeSession(load=[LoadNote("one: a new one\x1b[31m"), *FakeSession()._load]))
        assert "mp13chat: one: a new one\n" in shown(capsys)[1]

    def test_a_line_that_ends_with_a_backslash_goes_on(self) -> None:
        session = FakeSession()
        reader = chat(session, "first\\", "second")
        assert session.asked == [("base", "first\nsecond")]
        assert reader.prompts[:2] == ["base> ", "... "]

    def test_the_mix_that_answers_is_the_prompt(self) -> None:
        reader = chat(FakeSession(), "/adapter pirate:0.5")
        assert reader.prompts == ["base> ", "pirate:0.5> "]

    def test_mixes_that_are_compared_answer_one_after_the_other(self, capsys: pytest.CaptureFixture[str]) -> None:
        chat(FakeSession(["Hel", "lo."], ["A", "hoy!"]), "/compare base pirate Say hello.")
        assert shown(capsys)[0] == "[base]\nHello.\n[pirate]\nAhoy!\n\n"


class TestCommands:
    def test_who_leaves_is_told_how_a_training_goes_on(
        self, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("MP13_DATA_DIR", str(tmp_path))
        (tmp_path / "butler.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
        chat(FakeSession(), f"/train {tmp_path / 'butler.jsonl'}")
        assert "the training of butler ends with the engine's last chat" in shown(capsys)[0]

    def test_what_a_command_says_is_printed_and_a_typo_gets_a_suggestion(self, capsys) -> None:
        chat(FakeSession(), "/adapter pirate", "/adaptr json")
        out = shown(capsys)[0]
        assert "pirate answers from here on\n" in out
        assert "unknown command /adaptr; did you mean /adapter?\n" in out

    def test_a_diff_has_marks_and_no_colours(self, capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
        monkeypatch.setenv("FORCE_COLOR", "1")
        session = FakeSession(turns=[Turn("user", "hi", "pirate"), answer("Arr", "pirate")], mix="pirate")
        session.next_diff = Diff("pirate", "base", (DiffToken("Arr", 1, -0.1, -3.0, "Arr", "Hi", True, 2.0),))
        chat(session, "/diff")
        out = shown(capsys)[0]
        assert "[Arr|Hi]" in out
        assert "\x1b" not in out

    def test_quit_ends_the_chat_before_the_lines_do(self) -> None:
        session = FakeSession()
        chat(session, "/quit", "never asked")
        assert session.asked == []
        assert session.closed

    def test_a_conversation_that_is_gone_on_with_is_read_out(self, capsys: pytest.CaptureFixture[str]) -> None:
        turns = [
            Turn("user", f"prompt {n // 2}", "base") if n % 2 == 0 else answer(f"answer {n // 2}") for n in range(8)
        ]
        chat(FakeSession(turns=turns))
        out = shown(capsys)[0]
        assert out.startswith("(2 earlier turns; /turns lists them)\nYou: prompt 1\nanswer 1\n[base · 38 tok/s")


class TestStopping:
    def test_ctrl_c_stops_an_answer_which_is_kept_and_the_chat_goes_on(self, capsys) -> None:
        session = FakeSession(["half an", asyncio.Event()], ["Whole."])
        interrupted = threading.Timer(0.5, lambda: signal.raise_signal(signal.SIGINT))

        def first() -> str:
            interrupted.start()
            return "one"

        chat(session, first, "two")
        out, err = shown(capsys)
        assert out == "half an\nstopped\nWhole.\n\n"
        assert "stopped]" in err
        assert [turn.text for turn in session.turns] == ["one", "half an", "two", "Whole."]

    def test_told_to_end_it_ends_even_if_what_runs_comes_to_its_end_all_the_same(self) -> None:
        async def stubborn() -> str:
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(30)
            return "done"

        told = threading.Timer(0.3, lambda: signal.raise_signal(signal.SIGTERM))
        with Background() as background, pytest.raises(SystemExit) as ended, exit_when_told_to_end():
            told.start()
            background.run(stubborn())
        assert ended.value.code == 128 + signal.SIGTERM
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL

    def test_ctrl_c_at_a_line_drops_the_line_and_says_how_to_leave(self, capsys: pytest.CaptureFixture[str]) -> None:
        session = FakeSession()
        chat(session, "begun\\", KeyboardInterrupt, "hi")
        assert session.asked == [("base", "hi")]
        assert "Ctrl+D or /quit ends the chat." in shown(capsys)[0]


class TestErrors:
    def test_an_engine_that_does_not_come_up_is_said_and_the_chat_lives(self, capsys) -> None:
        session = FakeSession(load=[EngineFailed(Mp13Error("no memory"))])
        chat(session, "/adapter pirate")
        assert "no memory\npirate answers from here on\n" in shown(capsys)[0]

    def test_a_prompt_that_cannot_be_answered_is_said_and_the_next_can(self, capsys) -> None:
        chat(FakeSession(["be", Mp13Error("the engine died")], ["Back."]), "one", "two")
        assert "the engine died\nBack.\n" in shown(capsys)[0]

    @pytest.mark.parametrize(("reply", "asked"), [("y", 3), ("n", 2), ("", 2)])
    def test_a_full_context_is_a_choice(self, reply: str, asked: int) -> None:
        session = FakeSession(["One."], [ContextError("it does not fit")], ["Shorter."])
        reader = chat(session, "first", "second", reply)
        assert "Leave out the oldest exchanges, and ask again? [y/N] " in reader.prompts
        assert len(session.asked) == asked
        assert [turn.role for turn in session.turns].count("user") == 2


def test_commands_are_completed() -> None:
    session = FakeSession()
    with Background() as background:
        plain = PlainChat(background, session, Reader())
        assert "/adapter" in plain._complete("/ad")
        assert plain._complete("/adapter pi") == ["/adapter pirate"]
        background.run(session.close())


def test_what_runs_in_the_background_comes_back_with_its_error() -> None:
    async def fails() -> None:
        raise TimeoutError("its own")

    async def gives() -> int:
        return 5

    with Background() as background:
        assert background.run(gives()) == 5
        with pytest.raises(TimeoutError, match="its own"):
            background.run(fails())
