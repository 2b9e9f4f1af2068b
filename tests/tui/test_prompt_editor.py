"""The prompt as an editor: history, long pastes, files, an editor of the reader's own, and what it costs."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from syrupy.assertion import SnapshotAssertion
from textual import events
from textual.app import App

from mp13.chat.conversation.prompt_history import PromptHistory, history_file
from mp13.chat.conversation.store import ConversationStore
from mp13.chat.tui.screens.history_search import HistorySearch
from mp13.chat.tui.widgets import prompt_cost
from mp13.service.schema import CountReport
from tests.fakes.fake_session import FakeSession
from tests.tui.conftest import Chat, chatting
from tests.tui.test_screens import Size, at_each_size

LONG = "\n".join(f"line {number}" for number in range(1, 241))
TOKEN = "[paste #1 · 240 lines]"


async def paste(chat: Chat, text: str) -> None:
    before = chat.prompt.text
    chat.app.post_message(events.Paste(text))
    await chat.until(lambda: chat.prompt.text != before)


class TestHistory:
    async def test_up_brings_back_what_an_earlier_chat_asked(self) -> None:
        PromptHistory(history_file()).add("asked before")
        async with chatting(FakeSession(store=ConversationStore())) as chat:
            await chat.say("asked now")
            await chat.press("up")
            assert chat.prompt.text == "asked now"
            await chat.press("up")
            assert chat.prompt.text == "asked before"
        assert PromptHistory(history_file()).entries == ["asked before", "asked now"]

    async def test_a_chat_that_keeps_nothing_leaves_no_history(self) -> None:
        async with chatting(FakeSession(store=None)) as chat:
            await chat.say("a secret")
            await chat.press("up")
            assert chat.prompt.text == "a secret"
        assert not history_file().exists()

    async def test_ctrl_r_finds_by_words_and_puts_the_prompt_in_place_for_going_on(self) -> None:
        async with chatting(FakeSession()) as chat:
            for text in ("red fish", "blue bird", "green fish"):
                await chat.say(text)
            await chat.press("d", "r", "a", "f", "t", "ctrl+r")
            await chat.sees("What did you ask before?")
            await chat.press(*"fish", "down", "enter")
            await chat.until(lambda: chat.prompt.text == "red fish")
            assert len(chat.session.asked) == 3
            await chat.press("ctrl+z")  # what was being written is not lost
            assert chat.prompt.text == "draft"

    async def test_esc_leaves_the_prompt_as_it_was(self) -> None:
        async with chatting(FakeSession()) as chat:
            await chat.say("first")
            await chat.press("d", "ctrl+r")
            await chat.sees("What did you ask before?")
            await chat.press("escape")
            await chat.until(lambda: not isinstance(chat.app.screen, HistorySearch))
            assert chat.prompt.text == "d"

    async def test_a_search_that_finds_nothing_says_so(self) -> None:
        async with chatting(FakeSession()) as chat:
            await chat.say("first")
            await chat.press("ctrl+r", *"zebra")
            await chat.sees("No earlier prompt has these words.")
            await chat.press("enter")
            assert isinstance(chat.app.screen, HistorySearch)

    @at_each_size
    async def test_search_looks_like_this(self, size: Size, picture: SnapshotAssertion) -> None:
        history = PromptHistory(history_file())
        for text in ("What is the tide?", "Write a haiku about the sea\nin five lines", "[bold]markup[/] stays text"):
            history.add(text)
        async with chatting(FakeSession(store=ConversationStore()), size=size) as chat:
            await chat.press("ctrl+r")
            await chat.sees("What is the tide?")
            assert await chat.still() == picture


class TestPaste:
    async def test_a_long_paste_is_a_token_that_is_sent_as_its_text(self) -> None:
        async with chatting(FakeSession()) as chat:
            await chat.press(*"see ")
            await paste(chat, LONG)
            assert chat.prompt.text == f"see {TOKEN}"
            await chat.press("enter")
            await chat.rests()
            assert chat.session.asked == [("base", f"see {LONG}")]

    async def test_a_line_break_at_the_end_begins_no_line(self) -> None:
        async with chatting(FakeSession()) as chat:
            await paste(chat, LONG + "\n")
            assert chat.prompt.text == TOKEN

    async def test_one_long_line_is_a_token_too(self) -> None:
        async with chatting(FakeSession()) as chat:
            await paste(chat, "x" * 3000)
            assert chat.prompt.text == "[paste #1 · 3,000 characters]"

    async def test_tab_opens_it_and_undo_closes_it_again(self) -> None:
        async with chatting(FakeSession()) as chat:
            await paste(chat, LONG)
            await chat.press("tab")
            assert chat.prompt.text == LONG
            await chat.press("ctrl+z")
            assert chat.prompt.text == TOKEN

    async def test_backspace_takes_the_whole_token_away(self) -> None:
        async with chatting(FakeSession()) as chat:
            await paste(chat, LONG)
            await chat.press("backspace")
            assert chat.prompt.text == ""
            await chat.press("ctrl+z")
            assert chat.prompt.text == TOKEN

    async def test_recalled_it_is_a_token_still_and_means_the_same(self) -> None:
        async with chatting(FakeSession()) as chat:
            await paste(chat, LONG)
            await chat.press("enter")
            await chat.rests()
            await paste(chat, LONG + "\nmore")
            assert chat.prompt.text == "[paste #2 · 241 lines]"
            await chat.press("backspace", "up", "enter")
            await chat.rests()
            assert chat.session.asked == [("base", LONG)] * 2

    async def test_it_goes_into_commands(self) -> None:
        async with chatting(FakeSession()) as chat:
            await chat.press(*"/system ")
            await paste(chat, LONG)
            await chat.press("enter")
            await chat.rests()
            assert chat.session.system == LONG


class TestFiles:
    @pytest.fixture(autouse=True)
    def here(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        Path("notes.txt").write_text("mind the \x1b[2Jreef\n")
        Path("docs").mkdir()
        Path("docs/plan.md").write_text("# plan\n")

    async def test_an_at_sign_lists_files_and_tab_takes_them(self) -> None:
        async with chatting(FakeSession()) as chat:
            await chat.press(*"sum up @")
            await chat.sees("@docs/", "@notes.txt")
            await chat.press("d", "tab")
            assert chat.prompt.text == "sum up @docs/"
            await chat.press("tab")
            assert chat.prompt.text == "sum up @docs/plan.md"
            await chat.until(lambda: not chat.conversation._completion.is_open)

    async def test_a_name_is_completed_in_the_middle_of_a_text(self) -> None:
        async with chatting(FakeSession()) as chat:
            chat.prompt.show("read  now\nplease")
            chat.prompt.move_cursor((0, 5))
            await chat.press("@", "n", "tab", "!")
            assert chat.prompt.text == "read @notes.txt! now\nplease"

    async def test_the_file_goes_with_the_prompt_and_nothing_of_it_reaches_the_terminal_raw(self) -> None:
        async with chatting(FakeSession()) as chat:
            await chat.say("sum up @notes.txt")
            (asked,) = chat.session.asked
            assert asked[1] == "sum up @notes.txt\n\nnotes.txt:\n```txt\nmind the \x1b[2Jreef\n```"
            await chat.sees("mind the reef")
            assert "\x1b[2J" not in chat.shown()

    async def test_what_cannot_be_attached_is_said_and_the_prompt_stays(self) -> None:
        async with chatting(FakeSession()) as chat:
            await chat.send("sum up @[/]docs/nothing.txt @note.txt")
            await chat.sees("there is no file")
            assert chat.prompt.text == "sum up @[/]docs/nothing.txt @note.txt"
            assert chat.session.asked == []

    async def test_taken_back_it_is_as_it_was_written(self) -> None:
        import asyncio

        async with chatting(FakeSession([asyncio.Event()])) as chat:
            await chat.send("first")
            await chat.send("sum up @notes.txt")
            await chat.sees("waiting")
            await chat.press("escape")  # stops the first
            await chat.until(lambda: len(chat.session.asked) == 2 or chat.prompt.text)
            await chat.press("up")
            assert chat.prompt.text == "sum up @notes.txt"


class TestEditor:
    @pytest.fixture(autouse=True)
    def terminal(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The pilot's terminal cannot be given away; that the real one is, a trial in a terminal shows."""

        @contextmanager
        def suspend(app: App[Exception]) -> Iterator[None]:
            yield

        monkeypatch.setattr(App, "suspend", suspend)
        for name in ("VISUAL", "EDITOR"):
            monkeypatch.delenv(name, raising=False)

    def editor(self, tmp_path: Path, script: str) -> str:
        path = tmp_path / "my editor"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return f"'{path}' --flag"

    async def test_what_was_written_there_is_in_the_prompt(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        script = f'stat -c %a "$2" > {tmp_path}/mode; cp "$2" {tmp_path}/seen; printf "more\\n" >> "$2"'
        monkeypatch.setenv("EDITOR", self.editor(tmp_path, script))
        async with chatting(FakeSession()) as chat:
            await chat.press(*"tide", "ctrl+j", "ctrl+g")
            assert chat.prompt.text == "tide\nmore"
            assert (tmp_path / "seen").read_text() == "tide\n"
            await chat.press("ctrl+z")
            assert chat.prompt.text == "tide\n"

    async def test_pastes_are_open_there_and_tokens_again_afterwards(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("VISUAL", self.editor(tmp_path, f'cp "$2" {tmp_path}/seen; printf "\\nmore" >> "$2"'))
        monkeypatch.setenv("EDITOR", "false")
        async with chatting(FakeSession()) as chat:
            await paste(chat, LONG)
            await chat.press("ctrl+g")
            assert (tmp_path / "seen").read_text() == LONG
            assert chat.prompt.text == f"{TOKEN}\nmore"

    @pytest.mark.parametrize(
        ("editor", "sentence"),
        [
            (None, "no editor is named; set VISUAL or EDITOR"),
            ("no-such-editor -w", "there is no program 'no-such-editor'"),
            ("'unclosed", "close the quotation mark"),
            ("false", "ended with code 1; the prompt is as it was"),
        ],
    )
    async def test_an_editor_that_fails_is_said_and_the_prompt_stays(
        self, editor: str | None, sentence: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if editor is not None:
            monkeypatch.setenv("EDITOR", editor)
        async with chatting(FakeSession()) as chat:
            await chat.press(*"tide", "ctrl+g")
            await chat.until(lambda: any(sentence in toast.message for toast in chat.app._notifications))
            assert chat.prompt.text == "tide"

    async def test_no_file_is_left(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("EDITOR", self.editor(tmp_path, f'echo "$2" > {tmp_path}/name'))
        async with chatting(FakeSession()) as chat:
            await chat.press(*"tide", "ctrl+g")
            name = (tmp_path / "name").read_text().strip()
            assert name and not os.path.exists(name)


class TestCost:
    @pytest.fixture(autouse=True)
    def soon(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(prompt_cost, "PAUSE_S", 0.01)

    async def test_the_tokens_stand_at_the_prompt_beside_the_contexts_size(self) -> None:
        async with chatting(FakeSession()) as chat:
            await chat.press(*"four words of it")
            await chat.sees("4 of 8,192 tokens")
            await chat.press("enter")
            await chat.until(lambda: "tokens" not in chat.shown(chat.prompt))

    async def test_pastes_and_files_are_counted_as_they_would_be_sent(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        Path("notes.txt").write_text("one two three")
        async with chatting(FakeSession()) as chat:
            await paste(chat, LONG)
            await chat.sees("480 of 8,192 tokens")
            chat.prompt.show("@notes.txt")
            await chat.sees("7 of 8,192 tokens")

    @pytest.mark.parametrize(
        ("tokens", "sentence"), [(7_800, "7,800 of 8,192 tokens · nearly full"), (9_000, "9,000 tokens, too many for")]
    )
    async def test_it_warns_where_the_context_is_nearly_full(self, tokens: int, sentence: str) -> None:
        session = FakeSession()

        async def count(text: str) -> CountReport:
            return CountReport(prompt_tokens=tokens, context_limit=8192)

        session.count = count  # type: ignore[method-assign, assignment]
        async with chatting(session) as chat:
            await chat.press("x")
            await chat.until(lambda: sentence in str(chat.prompt.border_subtitle))
            assert chat.prompt.has_class("-nearly-full")
            await chat.press("backspace")
            await chat.until(lambda: not chat.prompt.has_class("-nearly-full"))

    async def test_commands_cost_nothing(self) -> None:
        async with chatting(FakeSession()) as chat:
            await chat.press(*"/new")
            await chat.pilot.pause(0.1)
            assert not chat.prompt.border_subtitle
