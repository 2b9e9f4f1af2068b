"""Conversations on disk: one SQLite file, a tree of turns, every turn in a transaction that survives kill -9.

It stores and finds turns; what a conversation does is session.py.
"""

import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pydantic import TypeAdapter

from mp13.chat.conversation.store_schema import migrate
from mp13.chat.conversation.turn import Turn
from mp13.errors import Mp13Error
from mp13.library.paths import data_dir
from mp13.service.schema import Metrics, Provenance

LATEST = "latest"
_BUSY_S = 5.0  # how long another chat may hold the file before a write gives up
_COLUMNS = "id, parent_id, role, text, mix, system, token_ids, finish_reason, provenance, metrics, created_at"
_metrics: TypeAdapter[Metrics] = TypeAdapter(Metrics)


@dataclass(frozen=True)
class ConversationInfo:
    """A line in the list of conversations: the first prompt names it."""

    id: str
    title: str
    turns: int
    updated_at: float  # seconds since 1970


class ConversationStore:
    """The open file. One process may hold several, and several processes one file each.

    Raises:
        Mp13Error: from any call, when the file cannot be read or written, with what to do about it.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or data_dir() / "conversations.db"
        _create_private(self.path)
        with self._explained():
            self._db = sqlite3.connect(self.path, timeout=_BUSY_S, isolation_level=None)
            try:
                self._db.execute("PRAGMA journal_mode = WAL")
                self._db.execute("PRAGMA synchronous = FULL")
                self._db.execute("PRAGMA foreign_keys = ON")
                with self._transaction():  # immediate, so that of two first chats one creates and the other sees it
                    migrate(self._db, self.path)
            except BaseException:
                self._db.close()
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._db.close()

    def add(self, conversation_id: str, turn: Turn, kept: bool = True) -> None:
        """Store `turn`, and its conversation with the first one. When this returns, it is on disk.

        The path goes on with it, unless it is not `kept`: an answer beside the one that was.
        """
        row = (
            turn.id, conversation_id, turn.parent_id, turn.role, turn.text, turn.mix, turn.system,
            None if turn.token_ids is None else json.dumps(turn.token_ids), turn.finish_reason,
            turn.provenance and turn.provenance.model_dump_json(),
            turn.metrics and _metrics.dump_json(turn.metrics).decode(), turn.created_at,
        )  # fmt: skip
        with self._transaction():
            self._db.execute(
                "INSERT OR IGNORE INTO conversations (id, created_at) VALUES (?, ?)", (conversation_id, turn.created_at)
            )
            columns = _COLUMNS.replace("id, ", "id, conversation_id, ", 1)
            self._db.execute(f"INSERT INTO turns ({columns}) VALUES ({', '.join('?' * len(row))})", row)
            if kept:
                self._db.execute("UPDATE conversations SET head = ? WHERE id = ?", (turn.id, conversation_id))

    def keep(self, conversation_id: str, turn_id: str) -> None:
        """Let the path end with this turn, which is stored. When this returns, that is on disk."""
        with self._transaction():
            self._db.execute("UPDATE conversations SET head = ? WHERE id = ?", (turn_id, conversation_id))

    def turns(self, conversation_id: str) -> list[Turn]:
        """The turns from the root to the last one that was kept, oldest first."""
        ancestry = f"""
            WITH RECURSIVE up(seq) AS (
                SELECT turns.seq FROM conversations JOIN turns ON turns.id = conversations.head
                    WHERE conversations.id = ?
                UNION ALL
                SELECT parent.seq FROM up JOIN turns child ON child.seq = up.seq
                    JOIN turns parent ON parent.id = child.parent_id
            ) SELECT {_COLUMNS} FROM turns WHERE seq IN (SELECT seq FROM up) ORDER BY seq"""
        return self._turns(ancestry, conversation_id)

    def answers(self, prompt_id: str) -> list[Turn]:
        """Every answer to a prompt, in the order in which they were stored."""
        query = f"SELECT {_COLUMNS} FROM turns WHERE parent_id = ? AND role = 'assistant' ORDER BY seq"
        return self._turns(query, prompt_id)

    def conversations(self, limit: int = 20) -> list[ConversationInfo]:
        """The conversations, the one used last first."""
        query = """
            SELECT conversation_id,
                (SELECT text FROM turns f WHERE f.conversation_id = t.conversation_id ORDER BY seq LIMIT 1),
                count(*), max(created_at)
            FROM turns t GROUP BY conversation_id ORDER BY max(seq) DESC LIMIT ?"""
        with self._explained(), closing(self._db.execute(query, (limit,))) as rows:
            return [ConversationInfo(*row) for row in rows]

    def find(self, wanted: str) -> str:
        """The id of the conversation `wanted`: "latest", an id, or the beginning of exactly one id.

        Raises:
            Mp13Error: there is none, or several begin so.
        """
        recent = self.conversations(5)
        if wanted == LATEST and recent:
            return recent[0].id
        with self._explained(), closing(self._db.execute("SELECT id FROM conversations")) as rows:
            found = [id for (id,) in rows if wanted and id.startswith(wanted)]
        if len(found) == 1:
            return str(found[0])
        if not recent:
            raise Mp13Error(f"there is no conversation to resume in {self.path}; start one without --resume")
        listed = ", ".join(f"{info.id[:8]} ({info.title[:30]!r})" for info in recent)
        what = f"{len(found)} conversations begin with" if found else "no conversation begins with"
        raise Mp13Error(f"{what} {wanted!r}; the latest are {listed}")

    def search(self, text: str, limit: int = 20) -> list[Turn]:
        """The turns that contain every word of `text`, best first."""
        words = " ".join('"' + word.replace('"', '""') + '"' for word in text.split())
        if not words:
            return []
        columns = ", ".join(f"turns.{column}" for column in _COLUMNS.split(", "))
        query = (
            f"SELECT {columns} FROM turns_text JOIN turns ON turns.seq = turns_text.rowid "
            "WHERE turns_text MATCH ? ORDER BY rank LIMIT ?"
        )
        return self._turns(query, words, limit)

    def _turns(self, query: str, *values: object) -> list[Turn]:
        with self._explained(), closing(self._db.execute(query, values)) as rows:
            return [_turn(row) for row in rows]

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._explained():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                self._db.rollback()
                raise

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise Mp13Error(
                f"{self.path} cannot be used ({error}); move it away, use --no-log, or set MP13_DATA_DIR elsewhere"
            ) from error


def _create_private(path: Path) -> None:
    """Make the file its owner's alone from the moment it exists; SQLite gives its side files the same mode."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        if path.stat().st_mode & 0o077:
            path.chmod(0o600)
    except OSError as error:
        raise Mp13Error(
            f"{path} cannot be written ({error.strerror}); set MP13_DATA_DIR to a folder you can write, or use --no-log"
        ) from error


def _turn(row: tuple[object, ...]) -> Turn:
    values = dict(zip(_COLUMNS.split(", "), row, strict=True))
    provenance, metrics, token_ids = values["provenance"], values["metrics"], values["token_ids"]
    values["provenance"] = None if provenance is None else Provenance.model_validate_json(str(provenance))
    values["metrics"] = None if metrics is None else _metrics.validate_json(str(metrics))
    values["token_ids"] = None if token_ids is None else tuple(json.loads(str(token_ids)))
    return Turn(**values)  # type: ignore[arg-type]  # the columns have the types of the fields, by the table above
