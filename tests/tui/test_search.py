"""The search screen: what it finds while one types, and where Enter leads."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from syrupy.assertion import SnapshotAssertion

from mp13.chat.conversation.store import ConversationStore
from mp13.chat.conversation.turn import Turn
from mp13.chat.tui.screens.search import SearchScreen
from tests.fakes.fake_session import FakeSession
from tests.fakes.stored import Kept, stored
from tests.tui.conftest import Chat, chatting
from tests.tui.test_screens import Size, at_each_size
from tests.tui.test_turn_cursor import marked, told

SOUP, SKY = "1" * 32, "2" * 32


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ConversationStore]:
    kept = (
        Kept("1", "A fish soup", "Take a kilo of fish and an onion.", 7200),
        Kept("2", "Why is the sky blue?", "It scatters the light.", 3 * 86400),
    )
    with stored(tmp_path / "conversations.db", *kept, now=time.time()) as store:
        head = store.tree(SKY).turns[0]
        store.add(SKY, Turn("assistant", "A secret branch.", "base", head.id, finish_reason="stop"), kept=False)
        yield store


async def search(chat: Chat, text: str) -> None:
    await chat.press("ctrl+f", *text)
    await chat.until(lambda: isinstance(chat.app.screen, SearchScreen))


@pytest.mark.parametrize("keys", [("ctrl+f",), (*"/find", "enter")])
async def test_a_key_and_the_command_without_words_open_it(keys: tuple[str, ...], store: ConversationStore) -> None:
    async with chatting(FakeSession(store=store)) as chat:
        await chat.press(*keys)
        await chat.sees("Search all conversations")
        await chat.press("escape")
        await chat.until(lambda: chat.app.screen is chat.conversation)


async def test_enter_opens_the_conversation_at_that_turn(store: ConversationStore) -> None:
    async with chatting(FakeSession(store=store)) as chat:
        await search(chat, "onion")
        await chat.sees("and an onion.")
        await chat.press("enter")
        await chat.until(lambda: marked(chat) == "Take a kilo of fish and an onion.")
        assert chat.session.conversation_id == SOUP


async def test_it_leads_into_another_branch(store: ConversationStore) -> None:
    async with chatting(FakeSession(store=store)) as chat:
        await search(chat, "secret")
        await chat.press("enter")
        await chat.until(lambda: marked(chat) == "A secret branch.")
        await chat.sees("‹ 2/2 ›")


async def test_a_turn_of_the_conversation_on_the_screen_is_gone_to(store: ConversationStore) -> None:
    async with chatting(FakeSession(["Yes."], store=store)) as chat:
        await chat.say("needle")
        await chat.say("more")
        await search(chat, "needle")
        await chat.press("enter")
        await chat.until(lambda: marked(chat) == "needle")
        assert len(chat.session.turns) == 4


async def test_what_is_nowhere_is_said(store: ConversationStore) -> None:
    async with chatting(FakeSession(store=store)) as chat:
        await search(chat, "xyzzy")
        await chat.sees("Nothing found.")
        await chat.press("enter")
        assert isinstance(chat.app.screen, SearchScreen)


async def test_without_a_log_there_is_nothing_to_search() -> None:
    async with chatting(FakeSession()) as chat:
        await chat.press("ctrl+f")
        await told(chat, "Nothing is kept in this chat")


@at_each_size
async def test_its_picture(size: Size, store: ConversationStore, picture: SnapshotAssertion) -> None:
    async with chatting(FakeSession(store=store), size=size) as chat:
        await search(chat, "fish")
        await chat.sees("kilo of fish")
        assert await chat.still() == picture
