"""A conversation is a tree: turns stand beside each other, the path walks among them, and anything can be undone."""

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from mp13.chat.conversation.ask import Ask
from mp13.chat.conversation.badge import badge
from mp13.chat.conversation.session import ChatSession
from mp13.chat.conversation.store import ConversationStore
from mp13.chat.conversation.turn import AnswerDone, Asked, Keeping, TextDelta
from mp13.chat.settings.load import load_settings
from mp13.errors import AdapterError, ConfigError, ContextError, Mp13Error
from tests.fakes.fake_adapter import make_adapter
from tests.fakes.fake_client import FakeHost


@pytest.fixture
def host() -> FakeHost:
    return FakeHost()


@pytest_asyncio.fixture
async def session(host: FakeHost, tmp_path: Path) -> AsyncIterator[ChatSession]:
    make_adapter("pirate")
    opened = ChatSession.open(load_settings({"model": str(tmp_path)}), connect=host)  # type: ignore[arg-type]
    yield opened
    await opened.close()


async def answer(session: ChatSession, ask: Ask) -> list[object]:
    return [event async for event in session.answer(ask)]


async def say(session: ChatSession, *texts: str) -> list[object]:
    return [event for text in texts for event in await answer(session, Ask(text))]


def path(session: ChatSession) -> list[str]:
    return [turn.text for turn in session.turns]


def stored(session: ChatSession) -> list[str]:
    with ConversationStore() as store:
        return [turn.text for turn in store.turns(session.conversation_id)]


class TestEditing:
    async def test_an_edited_prompt_stands_beside_what_it_was_and_the_model_reads_only_the_new_one(
        self, session: ChatSession, host: FakeHost
    ) -> None:
        host.answers = [["one"], ["two"], ["other two"]]
        await say(session, "first", "second")
        await answer(session, Ask("edited", turn="3"))
        assert path(session) == stored(session) == ["first", "one", "edited", "other two"]
        assert [message.content for message in host.requests[-1].messages] == ["first", "one", "edited"]
        beside = session.tree.siblings(session.turns[2])
        assert [turn.text for turn in beside] == ["second", "edited"]

    async def test_the_first_prompt_can_be_edited(self, session: ChatSession) -> None:
        await say(session, "first", "second")
        await answer(session, Ask("other first", turn="1"))
        assert path(session) == stored(session) == ["other first", "an answer"]
        assert len(session.tree.siblings(session.turns[0])) == 2

    async def test_an_answer_is_not_edited(self, session: ChatSession) -> None:
        await say(session, "first")
        with pytest.raises(ConfigError, match="only a turn of yours"):
            await answer(session, Ask("words in its mouth", turn="2"))
        with pytest.raises(ConfigError, match=r"no turn '9'.*numbers 1 to 2"):
            await answer(session, Ask("x", turn="9"))
        assert path(session) == ["first", "an answer"]


class TestAnsweringAgain:
    async def test_another_answer_takes_the_place_of_the_one_there_and_both_can_be_walked(
        self, session: ChatSession, host: FakeHost
    ) -> None:
        host.answers = [["one"], ["two"], ["again"]]
        await say(session, "first", "second")
        events = await answer(session, Ask(turn="2"))
        assert isinstance(events[0], Asked) and not events[0].is_next
        assert path(session) == stored(session) == ["first", "again"]
        session.tree.walk(session.turns[1], -1)
        assert path(session) == stored(session) == ["first", "one", "second", "two"]
        session.tree.walk(session.turns[1], 1)
        assert path(session) == ["first", "again"]
        with pytest.raises(ConfigError, match="nothing after 2 of 2"):
            session.tree.walk(session.turns[1], 1)

    async def test_where_no_answer_comes_the_path_is_as_before(self, session: ChatSession, host: FakeHost) -> None:
        host.answers = [["one"], ["two"], [ContextError("too long")]]
        await say(session, "first", "second")
        with pytest.raises(ContextError):
            await answer(session, Ask(turn="1"))
        assert path(session) == stored(session) == ["first", "one", "second", "two"]
        session.tree.undo()
        assert path(session) == ["first", "one"]

    async def test_siblings_are_in_the_order_in_which_they_began_also_when_resumed(
        self, session: ChatSession, host: FakeHost
    ) -> None:
        host.answers, host.order = [["late"], ["early"]], [1, 0]
        await answer(session, Ask("hi", ("base", "pirate")))
        again = ChatSession.open(session.settings, "latest", host)  # type: ignore[arg-type]
        assert [turn.mix for turn in again.answers] == [turn.mix for turn in session.answers] == ["base", "pirate"]
        await again.close()


class TestContinuing:
    async def test_a_cut_off_answer_goes_on_from_its_own_tokens(self, session: ChatSession, host: FakeHost) -> None:
        host.answers = [["The half", Mp13Error("cut")], [" and the rest."]]
        with pytest.raises(Mp13Error):
            await say(session, "go")
        half = session.turns[-1]
        assert (half.text, half.finish_reason) == ("The half", "abort")
        events = await answer(session, Ask(continues=True))
        assert next(event.text for event in events if isinstance(event, TextDelta)) == "The half"
        last = host.requests[-1].messages[-1]
        assert (last.role, last.content, last.token_ids) == ("assistant", "The half", half.token_ids)
        assert host.requests[-1].sampling.seed == half.provenance.sampling.seed  # type: ignore[union-attr]
        assert len(session.answers) == 2

    async def test_a_whole_answer_is_not_continued(self, session: ChatSession) -> None:
        with pytest.raises(ConfigError, match="no answer to continue"):
            await answer(session, Ask(continues=True))
        await say(session, "go")
        with pytest.raises(ConfigError, match="its own end"):
            await answer(session, Ask(continues=True))


class TestUndo:
    async def test_undo_and_redo_go_back_and_forth_over_everything(self, session: ChatSession) -> None:
        await say(session, "first", "second")
        await answer(session, Ask("edited", turn="3"))
        steps = [path(session)]
        for _ in range(3):
            session.tree.undo()
            steps.append(path(session))
            assert stored(session) == steps[-1]
        assert [len(step) for step in steps] == [4, 4, 2, 0]
        with pytest.raises(ConfigError, match="nothing to undo"):
            session.tree.undo()
        for step in reversed(steps[:-1]):
            session.tree.redo()
            assert path(session) == stored(session) == step
        with pytest.raises(ConfigError, match="nothing to do again"):
            session.tree.redo()

    async def test_what_is_deleted_goes_with_all_after_it_and_comes_back(self, session: ChatSession) -> None:
        await say(session, "first", "second", "third")
        assert session.tree.delete(session.turns[2]) == 4
        assert path(session) == stored(session) == ["first", "an answer"]
        with ConversationStore() as store:
            assert store.search("second") == []
        session.tree.undo()
        assert path(session) == stored(session) == ["first", "an answer", "second", "an answer", "third", "an answer"]
        with ConversationStore() as store:
            assert len(store.search("second")) == 1

    async def test_deleting_a_sibling_goes_to_the_one_that_is_left(self, session: ChatSession) -> None:
        await say(session, "first")
        await answer(session, Ask("other", turn="1"))
        session.tree.delete(session.turns[0])
        assert path(session) == stored(session) == ["first", "an answer"]
        await say(session, "goes on")
        assert path(session) == ["first", "an answer", "goes on", "an answer"]

    async def test_a_prompt_after_an_undo_begins_another_branch(self, session: ChatSession) -> None:
        await say(session, "first", "second")
        session.tree.undo()
        await say(session, "third")
        assert path(session) == stored(session) == ["first", "an answer", "third", "an answer"]
        assert [turn.text for turn in session.tree.siblings(session.turns[2])] == ["second", "third"]
        with pytest.raises(ConfigError):
            session.tree.redo()


class TestBranches:
    async def test_a_fork_is_a_conversation_of_its_own(self, session: ChatSession) -> None:
        await say(session, "first", "second")
        origin = session.conversation_id
        session.fork(session.turns[1])
        assert session.conversation_id != origin
        await say(session, "elsewhere")
        assert path(session) == stored(session) == ["first", "an answer", "elsewhere", "an answer"]
        session.resume(origin)
        assert path(session) == ["first", "an answer", "second", "an answer"]

    async def test_a_pinned_branch_answers_with_its_mix_and_the_others_do_not(
        self, session: ChatSession, host: FakeHost
    ) -> None:
        await say(session, "first")
        await session.command("/pin pirate")
        await say(session, "second")
        with pytest.raises(ConfigError, match="pirate is pinned"):
            await session.command("/adapter base")
        await answer(session, Ask("other first", turn="1"))
        await session.command("/adapter base")
        await say(session, "third")
        assert [request.adapters for request in host.requests] == ["base", "pirate", "pirate", "base"]
        session.tree.walk(session.turns[0], -1)
        session.moved()
        assert session.mix == "pirate"
        again = ChatSession.open(session.settings, "latest", host)  # type: ignore[arg-type]
        assert (again.mix, again.tree.pin) == ("pirate", "pirate")
        await again.command("/pin -")
        await again.command("/adapter base")
        assert again.tree.pin is None
        await again.close()

    async def test_a_pin_is_on_a_turn_and_what_was_pinned_further_on_gives_way(
        self, session: ChatSession, host: FakeHost
    ) -> None:
        for text in ("first", "second"):
            await say(session, text)
        await session.command("/pin pirate")
        with pytest.raises(AdapterError):
            await session.command("/pin nobody")
        assert session.pin == session.mix == "pirate"
        assert "from turn 2 on" in (await session.command("/pin base 2")).message
        await say(session, "third")
        await answer(session, Ask("other second", turn="3"))
        await answer(session, Ask("other first", turn="1"))
        with pytest.raises(ConfigError, match=r"/go .* goes there"):
            await session.command(f"/pin base {session.tree.siblings(session.turns[0])[0].id}")
        again = ChatSession.open(session.settings, "latest", host)  # type: ignore[arg-type]
        assert again.pin is None
        first = again.tree.siblings(again.turns[0])[0]
        again.tree.go(first)
        assert again.pin == "base"
        assert [again.pin_at(turn) for turn in again.turns[:2]] == [None, "base"]
        await again.command("/pin - 2")
        assert again.pin is None
        await again.close()

    async def test_a_pin_before_the_first_prompt_holds_from_it_on(self, session: ChatSession, host: FakeHost) -> None:
        await session.command("/pin pirate")
        await say(session, "first")
        again = ChatSession.open(session.settings, "latest", host)  # type: ignore[arg-type]
        assert (host.requests[0].adapters, again.tree.pin) == ("pirate", "pirate")
        await again.close()


class TestLeavingOut:
    @pytest.mark.parametrize("number", ["2", "99999999999999999999999", "9" * 5000])
    async def test_more_than_there_is_cannot_be_left_out_and_the_next_turn_is_kept(
        self, session: ChatSession, number: str
    ) -> None:
        await say(session, "first")
        with pytest.raises(ConfigError, match="give 0 to 1"):
            await session.command(f"/drop {number}")
        with pytest.raises(ConfigError):
            await session.command(f"/branch {number}")
        if number != "2":
            with pytest.raises(ConfigError, match="there is no turn"):
                await session.command(f"/go {number}")
            with pytest.raises(ConfigError, match="there is no answer"):
                await session.command(f"/keep {number}")
        await session.command("/drop 1")
        await say(session, "second")
        assert session.not_kept is None
        assert stored(session) == path(session)
        assert session.turns[-1].skipped == 1


class TestFullContext:
    async def test_the_oldest_exchanges_are_left_out_only_when_asked_and_the_answer_says_so(
        self, session: ChatSession, host: FakeHost
    ) -> None:
        host.answers = [["word " * 110] for _ in range(6)]
        await say(session, *(f"prompt {number}" for number in range(6)))
        await answer(session, Ask("last", drops_oldest=True))
        contents = [message.content for message in host.requests[-1].messages]
        assert len(contents) == 7  # 384 of 512 tokens hold three exchanges of 120 and the prompt
        assert [contents[0], contents[2], contents[4]] == ["prompt 3", "prompt 4", "prompt 5"]
        assert session.turns[-1].skipped == 3
        assert "without the oldest 3 exchanges" in badge(session.turns[-1])
        await say(session, "after")
        assert host.requests[-1].messages[0].content == "prompt 3"
        again = ChatSession.open(session.settings, "latest", host)  # type: ignore[arg-type]
        assert again.turns[-1].skipped == 3
        await again.close()


class TestNotKept:
    """A disk that is full, and then not any more."""

    @pytest.fixture
    def full(self, session: ChatSession) -> Iterator[Callable[[], None]]:
        """The disk is full until it is called."""
        assert session.store is not None
        with pytest.MonkeyPatch.context() as patch:
            for what in ("add", "add_all", "move", "pin"):
                patch.setattr(session.store, what, self._refuse)
            yield patch.undo

    @staticmethod
    def _refuse(*_: object, **__: object) -> None:
        raise Mp13Error("the disk is full")

    async def test_the_chat_goes_on_says_so_once_and_stores_everything_when_it_can_again(
        self, session: ChatSession, full: Callable[[], None]
    ) -> None:
        told = [event for text in ("first", "second") for event in await say(session, text)]
        assert [event.problem for event in told if isinstance(event, Keeping)] == ["the disk is full"]
        assert (path(session), stored(session)) == (["first", "an answer", "second", "an answer"], [])
        session.tree.delete(session.turns[2])
        assert session.not_kept == "the disk is full"
        full()
        assert [event for event in await say(session, "third") if isinstance(event, Keeping)] == [Keeping(None)]
        assert stored(session) == path(session) == ["first", "an answer", "third", "an answer"]
        assert session.not_kept is None
        with ConversationStore() as store:
            assert len(store.tree(session.conversation_id).turns) == 4

    async def test_a_conversation_that_was_left_is_stored_too_when_it_can_be(
        self, session: ChatSession, full: Callable[[], None]
    ) -> None:
        await say(session, "first")
        left = session.conversation_id
        session.new()
        await say(session, "elsewhere")
        full()
        await session.close()
        with ConversationStore() as store:
            assert [turn.text for turn in store.turns(left)] == ["first", "an answer"]
            assert [turn.text for turn in store.turns(session.conversation_id)] == ["elsewhere", "an answer"]


async def test_a_tree_is_not_moved_in_while_it_is_answered(session: ChatSession) -> None:
    async for event in session.answer(Ask("hi")):
        if not isinstance(event, AnswerDone):
            with pytest.raises(Mp13Error, match="still being written"):
                session.tree.undo()
