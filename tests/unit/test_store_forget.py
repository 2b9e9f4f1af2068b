"""What is forgotten is gone: its bytes are in no file of the data folder, and nothing else is lost."""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing

import pytest

from mp13.chat.conversation import store_forget
from mp13.chat.conversation.store import ConversationStore
from mp13.chat.conversation.turn import Turn
from mp13.errors import Mp13Error
from mp13.library.paths import data_dir
from tests.unit.test_store_migrations import make

SECRET, KEPT = "xyzzyplugh", "harmless"


@pytest.fixture
def store() -> Iterator[ConversationStore]:
    with ConversationStore() as opened:
        yield opened


def say(store: ConversationStore, id: str, text: str, turns: int = 30) -> None:
    """Long texts with the word in them, as prompt, answer, system prompt and title."""
    parent = None
    for number in range(turns):
        role = "assistant" if number % 2 else "user"
        turn = Turn(role, f"{text} {number} {text * 200}", "base", parent, system=f"{text} system")  # type: ignore[arg-type]
        store.add(id, turn)
        parent = turn.id
    store.rename(id, f"{text} title")


def files_with(word: str) -> list[str]:
    return sorted(file.name for file in data_dir().rglob("*") if file.is_file() and word.encode() in file.read_bytes())


def test_the_bytes_of_what_is_forgotten_are_in_no_file(store: ConversationStore) -> None:
    say(store, "one", SECRET)
    say(store, "two", KEPT)
    draft = Turn("assistant", f"{SECRET} half", "base", store.turns("one")[-2].id, finish_reason="abort")
    store.draft("one", draft)
    assert files_with(SECRET) != []
    forgotten = store.forget(["one"])
    assert (forgotten.conversations, forgotten.copies, forgotten.removed) == (1, (), ())
    assert files_with(SECRET) == []
    assert files_with(SECRET[:6]) == []  # words of the index are stored without their beginnings
    assert (store.search(SECRET), store.known_ids(with_deleted=True)) == ([], ["two"])
    assert len(store.turns("two")) == 30
    assert store.search(KEPT) != []
    assert store._rows("PRAGMA integrity_check") == [("ok",)]


def test_what_was_deleted_before_is_gone_too_and_while_another_chat_is_open(store: ConversationStore) -> None:
    say(store, "one", SECRET)
    store.delete("one")
    assert files_with(SECRET) != []
    with ConversationStore() as other:
        assert other.known_ids() == []
        store.forget(store.known_ids(with_deleted=True))
        assert files_with(SECRET) == []
        say(other, "three", KEPT, turns=2)
    assert store.known_ids() == ["three"]


def test_what_an_other_program_deleted_without_care_is_gone_too_and_the_room_is_free(store: ConversationStore) -> None:
    say(store, "one", SECRET)
    with closing(sqlite3.connect(store.path, isolation_level=None)) as careless:
        careless.execute("PRAGMA secure_delete = OFF")
        careless.execute("UPDATE conversations SET head = NULL, title = NULL")
        careless.execute("DELETE FROM turns")
        careless.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert files_with(SECRET) != []
    before = store.path.stat().st_size
    store.forget(["one"])
    assert files_with(SECRET) == []
    assert store.path.stat().st_size < before


@pytest.mark.parametrize("version", [1, 2, 3])
def test_copies_from_before_a_migration_forget_it_too_and_keep_the_rest(version: int) -> None:
    path = make(version)
    with ConversationStore() as store:
        assert "conversations.db.schema-" + str(version) in files_with("harbour")
        forgotten = store.forget(["one"])
    copy = path.with_name(f"conversations.db.schema-{version}")
    assert forgotten.copies == (copy,)
    assert files_with("harbour") == []
    with closing(sqlite3.connect(copy)) as db:
        assert db.execute("SELECT text FROM turns").fetchall() == [("elsewhere",)]


def test_a_copy_that_cannot_be_read_is_removed_and_that_is_told(store: ConversationStore) -> None:
    say(store, "one", SECRET, turns=2)
    broken = data_dir() / "conversations.db.broken-1"
    broken.write_bytes(b"garbage " * 1000 + SECRET.encode())
    broken.with_name(f"{broken.name}-wal").write_text(SECRET)
    assert store.forget(["one"]).removed == (broken,)
    assert files_with(SECRET) == []


def test_a_reader_that_does_not_end_is_told_and_nothing_is_in_a_list_any_more(
    store: ConversationStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_forget, "_PATIENCE_S", 0.1)
    store._db.execute("PRAGMA busy_timeout = 100")
    say(store, "one", SECRET, turns=2)
    with closing(sqlite3.connect(store.path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM turns").fetchall()
        with pytest.raises(Mp13Error, match=r"another program reads .* forget again"):
            store.forget(["one"])
        assert store.known_ids(with_deleted=True) == []
        reader.execute("COMMIT")
    store.forget([])
    assert files_with(SECRET) == []


def test_conversations_that_were_not_used_since_a_time(store: ConversationStore) -> None:
    for id, at in (("old", 100.0), ("new", 300.0)):
        store.add(id, Turn("user", "x", "base", created_at=at))
    store.delete("old")
    assert store.ids_before(200.0) == ["old"]
    assert store.ids_before(50.0) == []


def test_forgetting_does_not_hold_other_chats_up_for_long(store: ConversationStore) -> None:
    say(store, "one", SECRET)
    failures: list[BaseException] = []

    def write() -> None:
        try:
            with ConversationStore() as other:
                for number in range(20):
                    other.add("two", Turn("user", str(number), "base"))
        except BaseException as error:
            failures.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    store.forget(["one"])
    writer.join()
    assert (failures, len(store.tree("two").turns)) == ([], 20)
