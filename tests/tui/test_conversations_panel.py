"""The conversations panel: what it lists, how it finds, and what its keys do to a real store."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mp13.chat.conversation.store import ConversationStore
from mp13.chat.conversation.turn import Turn
from mp13.chat.tui.widgets import conversations as panel_module
from mp13.errors import Mp13Error
from tests.fakes.fake_session import FakeSession, answer
from tests.fakes.stored import Kept, stored
from tests.tui.conftest import Chat, chatting

SOUP, SKY, BOOK = "1" * 32, "2" * 32, "3" * 32
WIDE = (120, 36)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ConversationStore]:
    kept = (
        Kept("1", "A fish soup", "Take a kilo of fish and an onion.", 7200),
        Kept("2", "Why is the sky blue?", "It scatters the light.", 3 * 86400),
        Kept("3", "An address book", "Alice and Bob.", 9 * 86400),
        Kept("4", "Old plans", "Long done.", 90 * 86400, archived=True),
    )
    with stored(tmp_path / "conversations.db", *kept, now=time.time()) as store:
        yield store


def panel(chat: Chat) -> str:
    return chat.shown(chat.conversation.query_one(panel_module.ConversationsPanel))


def titles(store: ConversationStore, archived: bool = False) -> list[str]:
    return [info.title for info in store.conversations(archived=archived)]


async def marked(chat: Chat, *keys: str) -> None:
    """Go to the panel, and with `keys` to a row. The first row is the way to a new conversation."""
    await chat.press("f3", *keys)
    await chat.pilot.pause()


class TestList:
    async def test_the_newest_is_first_with_its_turns_and_age(self, store: ConversationStore) -> None:
        async with chatting(FakeSession(store=store), size=WIDE) as chat:
            await chat.sees("A fish soup", "2 turns · 2 h", "Why is the sky blue?", "2 turns · 3 d")
            text = panel(chat)
            assert text.index("fish soup") < text.index("sky blue") < text.index("address book")
            assert "Old plans" not in text

    async def test_the_present_one_is_marked_and_comes_when_its_first_turn_does(self, store: ConversationStore) -> None:
        async with chatting(FakeSession(store=store), size=WIDE) as chat:
            await chat.until(lambda: "● New" in panel(chat))
            await chat.say("What is the tide?")
            await chat.until(lambda: "● What is the tide?" in panel(chat))
            assert "+ New" in panel(chat)

    async def test_without_a_log_it_says_that_nothing_is_kept(self) -> None:
        async with chatting(FakeSession(), size=WIDE) as chat:
            await chat.until(lambda: "Nothing is kept" in panel(chat))

    async def test_a_store_that_cannot_be_read_is_said_and_the_chat_lives(
        self, store: ConversationStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(*_: object, **__: object) -> None:
            raise Mp13Error("[/] the file is broken")

        async with chatting(FakeSession(store=store), size=WIDE) as chat:
            monkeypatch.setattr(store, "delete", broken)
            await marked(chat, "down", "delete")
            await chat.sees("[/] the file is broken")
            await chat.until(lambda: "fish soup" in panel(chat))
            await chat.press("escape")
            await chat.say("go")

    async def test_a_hostile_title_is_only_text(self, store: ConversationStore) -> None:
        store.rename(SOUP, "[bold]x[/bold] \x1b[31mred\x1b[0m [/]")
        async with chatting(FakeSession(store=store), size=WIDE) as chat:
            await chat.until(lambda: "[bold]x[/bold] red" in panel(chat))
            await marked(chat, "down", "delete")
            await chat.sees("is deleted")
            assert all(character == "\n" or character.isprintable() for character in chat.shown())


class TestOpening:
    async def test_enter_opens_what_is_marked_and_goes_back_to_the_prompt(self, store: ConversationStore) -> None:
        async with chatting(FakeSession(store=store), size=WIDE) as chat:
            await marked(chat, "down", "down", "enter")
            await chat.sees("It scatters the light.")
            await chat.until(lambda: "● Why is the sky blue?" in panel(chat))
            assert chat.session.conversation_id == SKY
            assert chat.prompt.has_focus
            assert "back in conversation" not in chat.shown(chat.transcript)

    async def test_a_click_opens_too(self, store: ConversationStore) -> None:
        async with chatting(FakeSession(store=store), size=WIDE) as chat:
            await chat.sees("An address book")
            lines = chat.shown().splitlines()
            await chat.pilot.click(offset=(6, next(y for y, line in enumerate(lines) if "address book" in line)))
            await chat.sees("Alice and Bob.")

    async def test_it_waits_until_the_answer_that_runs_is_there(self, store: ConversationStore) -> None:
        import asyncio

        gate = asyncio.Event()
        async with chatting(FakeSession(["begun", gate, " and done"], store=store), size=WIDE) as chat:
            await chat.send("go")
            await chat.sees("begun")
            await marked(chat, "down", "down", "enter")
            assert chat.session.conversation_id != SKY
            gate.set()
            await chat.sees("It scatters the light.")
            assert [turn.text for turn in store.turns(store.conversations()[0].id)] == ["go", "begun and done"]

    async def test_the_first_row_begins_a_new_one(self, store: ConversationStore) -> None:
        turns = [Turn("user", "an earlier question", "base"), answer("an earlier answer")]
        async with chatting(FakeSession(turns=turns, store=store), size=WIDE) as chat:
            await chat.sees("an earlier answer")
            await marked(chat, "enter")
            await chat.until(lambda: "an earlier answer" not in chat.shown())


class TestSearch:
    async def test_what_is_typed_there_is_searched_in_titles_and_texts(self, store: ConversationStore) -> None:
        async with chatting(FakeSession(store=store), size=WIDE) as chat:
            await marked(chat, *"scatt")
            await chat.until(lambda: "fish soup" not in panel(chat))
            assert "Why is the sky blue?" in panel(chat)
            assert "It scatters the" in panel(chat)
            await chat.press("enter")
            await chat.until(lambda: chat.session.conversation_id == SKY)
            await chat.until(lambda: "fish soup" in panel(chat))

    async def test_enter_takes_what_was_typed_before_it_into_account(self, store: ConversationStore) -> None:
        async with chatting(FakeSession(store=store), size=WIDE) as chat:
            await chat.press("f3", *"onion", "enter")
            await chat.until(lambda: chat.session.conversation_id == SOUP)

    async def test_what_was_found_is_seen_however_long_the_text_is(self, tmp_path: Path) -> None:
        long = "many words before it, so that they would fill the line alone, and then the needle in the hay"
        with stored(tmp_path / "long.db", Kept("1", "Hay", long), now=time.time()) as store:
            async with chatting(FakeSession(store=store), size=WIDE) as chat:
                await marked(chat, *"needle")
                await chat.until(lambda: "needle in" in panel(chat))

    async def test_what_nobody_said_is_not_found(self, store: ConversationStore) -> None:
        async with chatting(FakeSession(store=store), size=WIDE) as chat:
            await marked(chat, *"zebra")
            await chat.until(lambda: "Nothing found." in panel(chat))
            await chat.press("enter", "escape")
            await chat.until(lambda: "fish soup" in panel(chat))

    async def test_esc_forgets_the_search(self, store: ConversationStore) -> None:
        async with chatting(FakeSession(store=store), size=WIDE) as chat:
            await marked(chat, *"onion")
            await chat.until(lambda: "sky" not in panel(chat))
            await chat.press("escape")
            await chat.until(lambda: "sky" in panel(chat))


class TestRenaming:
    async def test_a_title_is_changed_in_its_row(self, store: ConversationStore) -> None:
        async with chatting(FakeSession(store=store), size=WIDE) as chat:
            await chat.sees("A fish soup")
            line = next(y for y, text in enumerate(chat.shown().splitlines()) if "fish soup" in text)
            await marked(chat, "down", "f2")
            await chat.sees("Leave as it is")
            assert chat.app.focused is not None
            assert chat.app.focused.region.y == line
            await chat.press("ctrl+u", *"Supper", "enter")
            await chat.until(lambda: "Supper" in panel(chat))
            assert titles(store)[0] == "Supper"

    @pytest.mark.parametrize("keys", [("escape",), ("ctrl+u", "enter")])
    async def test_esc_and_an_empty_title_leave_it_as_it_is(
        self, store: ConversationStore, keys: tuple[str, ...]
    ) -> None:
        async with chatting(FakeSession(store=store), size=WIDE) as chat:
            await marked(chat, "down", "f2", "x", *keys)
            await chat.until(lambda: "Leave as it is" not in chat.shown())
            assert titles(store)[0] == "A fish soup"

    async def test_leaving_the_field_otherwise_changes_nothing(self, store: ConversationStore) -> None:
        async with chatting(FakeSession(store=store), size=WIDE) as chat:
            await marked(chat, "down", "f2", "x")
            await chat.pilot.click(chat.prompt, offset=(3, 1))
            await chat.until(lambda: chat.prompt.has_focus and "Leave as it is" not in chat.shown())
            assert titles(store)[0] == "A fish soup"


class TestArchive:
    async def test_what_is_archived_leaves_the_list_and_is_found_behind_its_last_row(
        self, store: ConversationStore
    ) -> None:
        async with chatting(FakeSession(store=store), size=WIDE) as chat:
            await marked(chat, "down", "ctrl+a")
            await chat.sees("“A fish soup” is in the archive.")
            await chat.until(lambda: "fish soup" not in panel(chat))
            await chat.press("down", "down", "enter")  # the last row
            await chat.until(lambda: "Old plans" in panel(chat) and "fish soup" in panel(chat))
            await chat.press("up", "up", "up", "down", "ctrl+a")
            await chat.until(lambda: "A fish soup" in titles(store))


class TestDeleting:
    async def test_it_can_be_undone_for_a_while(self, store: ConversationStore) -> None:
        async with chatting(FakeSession(store=store), size=WIDE) as chat:
            await marked(chat, "down", "delete")
            await chat.sees("“A fish soup” is deleted. Ctrl+Z")
            await chat.until(lambda: "fish soup" not in panel(chat))
            assert "A fish soup" not in titles(store)
            await chat.press("escape", "ctrl+z")
            await chat.until(lambda: "fish soup" in panel(chat))
            assert titles(store)[0] == "A fish soup"

    async def test_after_that_while_it_cannot(self, store: ConversationStore, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(panel_module, "UNDO_S", 0.05)
        async with chatting(FakeSession(store=store), size=WIDE) as chat:
            await marked(chat, "down", "delete")
            await chat.until(lambda: "A fish soup" not in titles(store))
            await chat.pilot.pause(0.2)
            await chat.press("ctrl+z")
            assert "A fish soup" not in titles(store)

    async def test_the_undo_of_what_is_being_written_is_left_alone(self, store: ConversationStore) -> None:
        async with chatting(FakeSession(store=store), size=WIDE) as chat:
            await marked(chat, "down", "delete", "escape")
            await chat.until(lambda: chat.prompt.has_focus)
            await chat.press("x", "ctrl+z")
            await chat.until(lambda: chat.prompt.text == "")
            assert "A fish soup" not in titles(store)

    async def test_the_present_one_gives_way_to_a_new_one_and_comes_back(self, store: ConversationStore) -> None:
        async with chatting(FakeSession(["So it is said."], store=store), size=WIDE) as chat:
            await chat.say("What is the tide?")
            id = chat.session.conversation_id
            await marked(chat, "down", "delete")
            await chat.until(lambda: chat.session.conversation_id != id)
            await chat.until(lambda: "So it is said." not in chat.shown())
            await chat.press("ctrl+z")
            await chat.sees("So it is said.")
            assert chat.session.conversation_id == id

    async def test_del_in_a_search_deletes_text_first(self, store: ConversationStore) -> None:
        async with chatting(FakeSession(store=store), size=WIDE) as chat:
            await marked(chat, *"onion", "home", "delete")
            await chat.pilot.pause(0.3)
            assert len(titles(store)) == 3
