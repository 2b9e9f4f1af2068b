"""A conversations file of every earlier version, with content, becomes one of this version and loses nothing."""

import json
import sqlite3
import stat
from contextlib import closing
from pathlib import Path

import pytest

from mp13.chat.conversation import store_schema
from mp13.chat.conversation.store import ConversationStore
from mp13.chat.conversation.store_schema import SCHEMA_VERSION
from mp13.chat.conversation.turn import Turn
from mp13.errors import Mp13Error
from mp13.library.paths import data_dir

# As those versions created it: never to be changed.
_SEARCH = """
CREATE INDEX turns_of_conversation ON turns (conversation_id, seq);
CREATE VIRTUAL TABLE turns_text USING fts5 (text, content = 'turns', content_rowid = 'seq');
CREATE TRIGGER turns_text_insert AFTER INSERT ON turns BEGIN
    INSERT INTO turns_text (rowid, text) VALUES (new.seq, new.text);
END;
CREATE TRIGGER turns_text_delete AFTER DELETE ON turns BEGIN
    INSERT INTO turns_text (turns_text, rowid, text) VALUES ('delete', old.seq, old.text);
END;
"""
_TURNS = """
    seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, conversation_id TEXT NOT NULL REFERENCES conversations(id),
    parent_id TEXT REFERENCES turns(id), role TEXT NOT NULL, text TEXT NOT NULL, mix TEXT NOT NULL, system TEXT,
    token_ids TEXT, finish_reason TEXT, provenance TEXT, metrics TEXT, created_at REAL NOT NULL"""
_HEAD = "head TEXT REFERENCES turns(id)"
_SCHEMAS = {
    1: f"""
CREATE TABLE conversations (id TEXT PRIMARY KEY, created_at REAL NOT NULL) STRICT;
CREATE TABLE turns ({_TURNS}) STRICT;{_SEARCH}""",
    2: f"""
CREATE TABLE conversations (id TEXT PRIMARY KEY, created_at REAL NOT NULL, {_HEAD}) STRICT;
CREATE TABLE turns ({_TURNS}) STRICT;{_SEARCH}""",
    3: f"""
CREATE TABLE conversations (id TEXT PRIMARY KEY, created_at REAL NOT NULL, {_HEAD}, title TEXT, archived_at REAL,
    deleted_at REAL) STRICT;
CREATE TABLE turns ({_TURNS}, skipped INTEGER NOT NULL DEFAULT 0, pin TEXT, deleted_at REAL) STRICT;
CREATE INDEX turns_of_parent ON turns (parent_id);{_SEARCH}""",
}
PROMPT, ANSWER = "p" * 32, "a" * 32


def make(version: int) -> Path:
    """A file of `version` with a prompt, two answers to it of which the second is kept, and another conversation."""
    path = data_dir() / "conversations.db"
    path.parent.mkdir(parents=True)
    columns = "id, conversation_id, parent_id, role, text, mix, token_ids, finish_reason, created_at"
    rows = [
        (PROMPT, "one", None, "user", "where is the harbour", "base", None, None, 1.0),
        ("b" * 32, "one", PROMPT, "assistant", "to the south", "pirate", json.dumps([1, 2]), "abort", 2.0),
        (ANSWER, "one", PROMPT, "assistant", "to the north", "base", json.dumps([3, 0]), "stop", 3.0),
        ("c" * 32, "two", None, "user", "elsewhere", "base", None, None, 4.0),
    ]
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.executescript(_SCHEMAS[version])
        db.executemany("INSERT INTO conversations (id, created_at) VALUES (?, ?)", [("one", 1.0), ("two", 4.0)])
        db.executemany(f"INSERT INTO turns ({columns}) VALUES ({', '.join('?' * 9)})", rows)
        if version >= 2:
            db.executemany("UPDATE conversations SET head = ? WHERE id = ?", [(ANSWER, "one"), ("c" * 32, "two")])
        if version >= 3:
            db.execute("UPDATE conversations SET title = 'A harbour', archived_at = 9.0 WHERE id = 'one'")
            db.execute("UPDATE turns SET skipped = 2, pin = 'pirate' WHERE id = ?", (PROMPT,))
        db.execute(f"PRAGMA user_version = {version}")
        db.commit()
    return path


def test_every_earlier_version_is_among_these() -> None:
    assert list(_SCHEMAS) == list(store_schema._MIGRATIONS) == list(range(1, SCHEMA_VERSION))


@pytest.mark.parametrize("version", _SCHEMAS)
def test_an_earlier_file_is_copied_aside_and_goes_on_with_all_it_had(version: int) -> None:
    path = make(version)
    with ConversationStore() as store:
        prompt = Turn("user", "where is the harbour", "base", id=PROMPT, created_at=1.0, skipped=2 * (version >= 3))
        answer = Turn("assistant", "to the north", "base", PROMPT, None, (3, 0), "stop", id=ANSWER, created_at=3.0)
        assert store.turns("one") == [prompt, answer]
        assert [turn.text for turn in store.tree("one").turns] == [prompt.text, "to the south", "to the north"]
        assert store.tree("one").pins == ({PROMPT: "pirate"} if version >= 3 else {})
        assert {found.turn_id for found in store.search("south")} == {"b" * 32}
        listed = store.conversations() + store.conversations(archived=True)
        titles = {"one": "A harbour" if version >= 3 else "where is the harbour", "two": "elsewhere"}
        assert {info.id: info.title for info in listed} == titles
        store.draft("one", Turn("assistant", "perhaps", "base", PROMPT, finish_reason="abort", id="d" * 32))
        store.add("one", Turn("assistant", "to the west", "base", PROMPT, finish_reason="stop", id="d" * 32))
        assert [found.turn_id for found in store.search("west")] == ["d" * 32]
        assert store.search("perhaps") == []
    aside = path.with_name(f"conversations.db.schema-{version}")
    assert stat.S_IMODE(aside.stat().st_mode) == 0o600
    with closing(sqlite3.connect(aside)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (version,)
        assert db.execute("SELECT text FROM turns ORDER BY seq LIMIT 3").fetchall() == [
            ("where is the harbour",), ("to the south",), ("to the north",),
        ]  # fmt: skip


@pytest.mark.parametrize("version", _SCHEMAS)
def test_a_migrated_file_has_the_tables_of_a_new_one(version: int, tmp_path: Path) -> None:
    def things(path: Path) -> dict[str, object]:
        with ConversationStore(path) as store:
            tables = {"conversations", "turns"}
            names = {row[0] for row in store._rows("SELECT name FROM sqlite_schema")} - tables
            return {
                table: sorted(
                    store._rows(
                        f"SELECT * FROM pragma_table_info('{table}')",
                    )
                )
                for table in tables
            } | {"others": names}

    migrated, new = things(make(version)), things(tmp_path / "new.db")
    assert migrated["others"] == new["others"]
    for table in ("conversations", "turns"):
        assert {row[1:] for row in migrated[table]} == {row[1:] for row in new[table]}  # type: ignore[attr-defined]


@pytest.mark.parametrize("version", _SCHEMAS)
def test_a_migration_that_fails_leaves_the_file_as_it_was(version: int, monkeypatch: pytest.MonkeyPatch) -> None:
    path, last = make(version), SCHEMA_VERSION - 1
    broken = {**store_schema._MIGRATIONS, last: store_schema._MIGRATIONS[last] + "UPDATE nowhere SET x = 1;\n"}
    with monkeypatch.context() as patch, pytest.raises(Mp13Error, match="no such table"):
        patch.setattr(store_schema, "_MIGRATIONS", broken)
        ConversationStore()
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (version,)
    with ConversationStore() as migrated:
        assert [turn.text for turn in migrated.turns("two")] == ["elsewhere"]
