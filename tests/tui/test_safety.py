"""What models, adapters and errors say is text: no control character, no markup, no link that leaves the web."""

from pathlib import Path

import pytest

from mp13.chat.tui.widgets.answer_markdown import AnswerMarkdown
from mp13.errors import Mp13Error
from mp13.library.adapters import AdapterOnDisk
from tests.fakes import fake_session
from tests.fakes.fake_session import FakeSession, answer
from tests.tui.conftest import Chat, chatting

HOSTILE = [
    "[/]",
    "[bold]x[/bold]",
    "[/red]",
    "[@click=app.quit]y[/]",
    "\x1b[31mred\x1b[0m",
    "\x1b]0;title\x07",
    "\x9b2J",
]

HALF_WRITTEN = [
    "```py\nx", "| a |\n|--|\n| 1", "> > > > > > > > x", "![a](b", "[a](javascript:x)", "***", "# `", "\t\tcode",
    "[a]: b\n[a]", "www.example.org", "- [ ] a\n  - [x] b\n    ```\n  c", "&nbsp;&#27;[31m", "\n\n\n",
]  # fmt: skip


def no_control_characters(chat: Chat) -> bool:
    return all(character == "\n" or character.isprintable() for character in chat.shown())


class TestModelText:
    async def test_markup_and_escapes_in_an_answer_are_only_text(self) -> None:
        async with chatting(FakeSession(*(["before ", *text, " after"] for text in HOSTILE)), size=(80, 50)) as chat:
            for _ in HOSTILE:
                await chat.say("go")
            await chat.until(lambda: chat.shown().count("after") == len(HOSTILE))
            assert no_control_characters(chat)
            assert all(f"before {text} after" in chat.shown() for text in HOSTILE if text.isprintable())

    async def test_an_escape_cut_in_two_by_streaming_leaves_no_trace_in_the_end(self) -> None:
        async with chatting(FakeSession(["be", "\x1b", "[31mfore", "\x1b]0;ti", "tle\x07 after"])) as chat:
            await chat.say("go")
            await chat.sees("before after")

    async def test_tags_are_shown_and_line_breaks_kept(self) -> None:
        async with chatting(FakeSession(["<tag>hm</tag> yes\n<b>bold</b>\n\n<div>\nblock\n</div>\n"])) as chat:
            await chat.say("go")
            await chat.sees("<tag>hm</tag> yes\n", "<b>bold</b>", "<div>", "block")

    async def test_half_written_markdown_is_drawn_at_every_step(self) -> None:
        async with chatting(FakeSession(*([*text, "\n\nafter"] for text in HALF_WRITTEN))) as chat:
            for _ in HALF_WRITTEN:
                await chat.say("go")
                assert no_control_characters(chat)
            await chat.sees("after", "38 tok/s")

    async def test_only_links_to_the_web_are_opened(self, monkeypatch: pytest.MonkeyPatch) -> None:
        async with chatting(FakeSession(["[a](https://example.org) [b](file:///etc/passwd)"])) as chat:
            opened: list[str] = []
            monkeypatch.setattr(chat.app, "open_url", opened.append)
            await chat.say("go")
            markdown = chat.transcript.query_one(AnswerMarkdown)
            for href in ("https://example.org", "file:///etc/passwd", "javascript:x"):
                markdown.post_message(AnswerMarkdown.LinkClicked(markdown, href))
            await chat.sees("Only links to the web are opened.")
            assert opened == ["https://example.org"]


class TestOtherText:
    async def test_prompts_errors_and_stored_turns_are_only_text(self) -> None:
        stored = [answer(f"stored {text}") for text in HOSTILE]
        failures = ([Mp13Error(f"failed {text}")] for text in HOSTILE)
        async with chatting(FakeSession(*failures, turns=stored), size=(80, 80)) as chat:
            for text in HOSTILE:
                await chat.say(f"asked {text}")
            await chat.until(
                lambda: all(chat.shown().count(word) == len(HOSTILE) for word in ("stored", "asked", "failed"))
            )
            assert no_control_characters(chat)

    async def test_an_adapter_with_a_hostile_name_or_reason_is_only_text(self, monkeypatch: pytest.MonkeyPatch) -> None:
        hostile = tuple(AdapterOnDisk(f"n{text}", Path("/x"), 1, "lora", 1, f"because {text}") for text in HOSTILE)
        monkeypatch.setattr(fake_session, "ADAPTERS", hostile)
        async with chatting(FakeSession()) as chat:
            await chat.press("ctrl+o")
            await chat.sees("because [/]", "n[bold]x[/bold]")
            assert no_control_characters(chat)
