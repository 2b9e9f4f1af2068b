"""A chat whose store fails goes on, and its reader sees that it is not saved, and when it is again."""

from pathlib import Path

import pytest

from mp13.chat.conversation.session import ChatSession
from mp13.chat.conversation.store import ConversationStore
from mp13.chat.settings.load import load_settings
from mp13.chat.tui.widgets.turns import Notice
from mp13.errors import Mp13Error
from mp13.library.paths import data_dir
from tests.fakes.fake_client import FakeHost
from tests.fakes.fake_session import FakeSession
from tests.tui.conftest import Chat, chatting


def said(chat: Chat) -> list[str]:
    """What mp13 itself has said."""
    return [str(notice._text) for notice in chat.transcript.query(Notice)]


async def test_a_disk_that_is_full_is_said_once_and_shown_until_all_is_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise Mp13Error("the disk is full; make room")

    store = ConversationStore()
    async with chatting(FakeSession(store=store), size=(120, 36)) as chat:
        with monkeypatch.context() as patch:
            patch.setattr(store, "add", full)
            await chat.say("one")
            await chat.until(lambda: said(chat) == ["this chat goes on, but is not saved: the disk is full; make room"])
            await chat.until(lambda: "not saved" in chat.status)
            await chat.say("two")
            await chat.sees("two", "Hello.")
            assert len(said(chat)) == 1
        await chat.say("three")
        await chat.until(lambda: said(chat)[1:] == ["what was not saved is saved now"])
        await chat.until(lambda: "not saved" not in chat.status)
        assert [turn.text for turn in store.turns(chat.session.conversation_id)][::2] == ["one", "two", "three"]


async def test_a_chat_that_keeps_nothing_writes_no_byte_of_what_is_said(tmp_path: Path) -> None:
    settings = load_settings({"model": str(tmp_path), "log": "false"})
    async with chatting(ChatSession.open(settings, connect=FakeHost()), size=(120, 36)) as chat:  # type: ignore[arg-type]
        await chat.say("a very secret prompt")
        await chat.sees("an answer")
        await chat.say("/nosuch very secret")
        await chat.press("up", "up")
        assert chat.prompt.text == "a very secret prompt"
    home = data_dir().parent
    for path in [path for path in home.rglob("*") if path.is_file()]:
        said = path.read_bytes()
        assert b"secret" not in said and b"an answer" not in said, path


async def test_a_broken_file_is_said_when_the_chat_begins(tmp_path: Path) -> None:
    data_dir().mkdir(parents=True)
    (data_dir() / "conversations.db").write_bytes(b"no database" * 1000)
    session = ChatSession.open(load_settings({"model": str(tmp_path)}), connect=FakeHost())  # type: ignore[arg-type]
    async with chatting(session, size=(120, 36)) as chat:
        await chat.until(lambda: len(said(chat)) == 1)
        assert said(chat)[0].startswith("this chat goes on, but is not saved: ") and "history repair" in said(chat)[0]
        await chat.until(lambda: "not saved" in chat.status)
        await chat.sees("Nothing is saved in this", "chat.")
        await chat.say("hi")
        await chat.sees("an answer")
