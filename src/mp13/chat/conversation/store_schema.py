"""The tables of the conversations file, and how a file of an earlier version becomes one of this version."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from mp13.errors import Mp13Error

SCHEMA_VERSION = 4
_SCHEMA = """
CREATE TABLE conversations (
    id TEXT PRIMARY KEY,
    created_at REAL NOT NULL,
    head TEXT REFERENCES turns(id),
    title TEXT,
    archived_at REAL,
    deleted_at REAL
) STRICT;
CREATE TABLE turns (
    seq INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    conversation_id TEXT NOT NULL REFERENCES conversations(id),
    parent_id TEXT REFERENCES turns(id),
    role TEXT NOT NULL,
    text TEXT NOT NULL,
    mix TEXT NOT NULL,
    system TEXT,
    token_ids TEXT,
    finish_reason TEXT,
    provenance TEXT,
    metrics TEXT,
    created_at REAL NOT NULL,
    skipped INTEGER NOT NULL DEFAULT 0,
    pin TEXT,
    deleted_at REAL
) STRICT;
CREATE INDEX turns_of_conversation ON turns (conversation_id, seq);
CREATE INDEX turns_of_parent ON turns (parent_id);
CREATE VIRTUAL TABLE turns_text USING fts5 (text, content = 'turns', content_rowid = 'seq');
CREATE TRIGGER turns_text_insert AFTER INSERT ON turns BEGIN
    INSERT INTO turns_text (rowid, text) VALUES (new.seq, new.text);
END;
CREATE TRIGGER turns_text_delete AFTER DELETE ON turns BEGIN
    INSERT INTO turns_text (turns_text, rowid, text) VALUES ('delete', old.seq, old.text);
END;
CREATE TRIGGER turns_text_update AFTER UPDATE OF text ON turns BEGIN
    INSERT INTO turns_text (turns_text, rowid, text) VALUES ('delete', old.seq, old.text);
    INSERT INTO turns_text (rowid, text) VALUES (new.seq, new.text);
END;
"""
_MIGRATIONS = {
    1: """
ALTER TABLE conversations ADD COLUMN head TEXT REFERENCES turns(id);
UPDATE conversations SET head =
    (SELECT id FROM turns WHERE conversation_id = conversations.id ORDER BY seq DESC LIMIT 1);
""",
    2: """
ALTER TABLE conversations ADD COLUMN title TEXT;
ALTER TABLE conversations ADD COLUMN archived_at REAL;
ALTER TABLE conversations ADD COLUMN deleted_at REAL;
ALTER TABLE turns ADD COLUMN skipped INTEGER NOT NULL DEFAULT 0;
ALTER TABLE turns ADD COLUMN pin TEXT;
ALTER TABLE turns ADD COLUMN deleted_at REAL;
CREATE INDEX turns_of_parent ON turns (parent_id);
""",
    3: """
CREATE TRIGGER turns_text_update AFTER UPDATE OF text ON turns BEGIN
    INSERT INTO turns_text (turns_text, rowid, text) VALUES ('delete', old.seq, old.text);
    INSERT INTO turns_text (rowid, text) VALUES (new.seq, new.text);
END;
""",
}


def migrate(db: sqlite3.Connection, path: Path) -> None:
    """Make the file at `path`, open as `db` in a transaction, one of this version; an earlier one is copied aside
    first, and each step goes from one version to the next.

    Raises:
        Mp13Error: it is of a later version.
    """
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version > SCHEMA_VERSION:
        raise Mp13Error(
            f"{path} was written by a newer mp13 (its schema is {version}, this one knows "
            f"{SCHEMA_VERSION}); update mp13, use --no-log, or set MP13_DATA_DIR to another folder"
        )
    if version == SCHEMA_VERSION:
        return
    if version:
        copy_aside(path, path.with_name(f"{path.name}.schema-{version}"))
    for script in [_MIGRATIONS[step] for step in range(version, SCHEMA_VERSION)] if version else [_SCHEMA]:
        for statement in _statements(script):
            db.execute(statement)
    db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def copy_aside(path: Path, copy: Path) -> None:
    """Through a connection of its own, which sees the file as it was before a transaction that is open."""
    copy.unlink(missing_ok=True)
    os.close(os.open(copy, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)


def _statements(script: str) -> Iterator[str]:
    """The statements of `script`; `executescript` would end our transaction."""
    statement = ""
    for line in script.splitlines():
        statement += line + "\n"
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
