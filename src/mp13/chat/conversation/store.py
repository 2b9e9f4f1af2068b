"""Conversations on disk: one SQLite file, a tree of turns, every turn in a transaction that survives kill -9.

It stores and finds; what a conversation does is session.py's, the file itself store_file.py's.
"""

import json
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from pydantic import TypeAdapter

from mp13.chat.conversation.store_forget import StoreForget
from mp13.chat.conversation.store_search import TITLE, StoreSearch
from mp13.chat.conversation.turn import Turn
from mp13.errors import Mp13Error
from mp13.service.schema import Metrics, Provenance

LATEST = "latest"
_COLUMNS = "id, parent_id, role, text, mix, system, token_ids, finish_reason, provenance, metrics, created_at, skipped"
_WRITTEN = ("text", "token_ids", "finish_reason", "provenance", "metrics")
_REPLACES_DRAFT = (
    f"ON CONFLICT (id) DO UPDATE SET {', '.join(f'{column} = excluded.{column}' for column in _WRITTEN)}"
    " WHERE finish_reason = 'abort' AND conversation_id = excluded.conversation_id"
)
_metrics: TypeAdapter[Metrics] = TypeAdapter(Metrics)


@dataclass(frozen=True)
class ConversationInfo:
    """A line in the list of conversations: its own title, else the first prompt, names it."""

    id: str
    title: str
    turns: int
    updated_at: float  # seconds since 1970
    archived: bool = False


@dataclass(frozen=True)
class StoredTree:
    """All turns of a conversation in the order in which they were stored, where its path ends, and its pins by turn."""

    turns: list[Turn]
    head: str | None
    pins: dict[str, str]


@dataclass(frozen=True)
class WholeConversation:
    """All that is known of a conversation but its deleted turns. `title` is None where its first prompt names it;
    `pins` are mixes by turn; times are seconds since 1970."""

    id: str
    created_at: float
    title: str | None
    archived_at: float | None
    head: str | None
    pins: dict[str, str]
    turns: list[Turn]


class ConversationStore(StoreSearch, StoreForget):
    """What can be stored and found in the file."""

    def add(self, conversation_id: str, turn: Turn, kept: bool = True) -> None:
        """Store `turn`, and its conversation with the first one; it takes the place of its draft. When this returns, it
        is on disk.

        The path goes on with it, unless it is not `kept`: an answer beside the one that was.
        """
        self.add_all(conversation_id, [turn], head=turn.id if kept else None)

    def draft(self, conversation_id: str, turn: Turn, kept: bool = True) -> None:
        """Store an answer as far as it has come, which survives the end of this process; `add` replaces it. It waits
        neither for the disk nor for another chat that writes: the next draft comes in a moment."""
        with self._hurried():
            self.add(conversation_id, turn, kept)

    def add_all(
        self, conversation_id: str, turns: Sequence[Turn], *, head: str | None = None, title: str | None = None
    ) -> None:
        """Store `turns`, parents before children, all or none; the path ends with the turn `head` then."""
        with self._transaction():
            self._db.execute(
                "INSERT OR IGNORE INTO conversations (id, created_at, title) VALUES (?, ?, ?)",
                (conversation_id, turns[0].created_at, title),
            )
            self._insert(conversation_id, turns, _REPLACES_DRAFT)
            if head is not None:
                self._db.execute("UPDATE conversations SET head = ? WHERE id = ?", (head, conversation_id))

    def move(
        self, conversation_id: str, head: str | None, removed: Collection[str] = (), restored: Collection[str] = ()
    ) -> None:
        """Let the path end with the stored turn `head` (None: before the first), and take turns away or bring them
        back. When this returns, that is on disk."""
        with self._transaction():
            self._db.execute("UPDATE conversations SET head = ? WHERE id = ?", (head, conversation_id))
            for ids, value in ((removed, time.time()), (restored, None)):
                self._db.executemany("UPDATE turns SET deleted_at = ? WHERE id = ?", [(value, id) for id in ids])

    def pin(self, turn_id: str, mix: str | None) -> None:
        """Let `mix` ("" releases) answer what is asked below a turn; None says nothing of it."""
        with self._transaction():
            self._db.execute("UPDATE turns SET pin = ? WHERE id = ?", (mix, turn_id))

    def skip(self, turn_id: str, exchanges: int) -> None:
        """Leave the oldest `exchanges` out of what the model reads for a prompt."""
        with self._transaction():
            self._db.execute("UPDATE turns SET skipped = ? WHERE id = ?", (exchanges, turn_id))

    def tree(self, conversation_id: str) -> StoredTree:
        """The whole of a conversation, what was deleted left out."""
        query = f"""SELECT {_COLUMNS}, pin FROM turns
            WHERE conversation_id = ? AND deleted_at IS NULL ORDER BY created_at, seq"""
        rows = self._rows(query, conversation_id)
        heads = self._rows("SELECT head FROM conversations WHERE id = ?", conversation_id)
        pins = {row[0]: row[-1] for row in rows if row[-1] is not None}
        return StoredTree([_turn(row[:-1]) for row in rows], heads[0][0] if heads else None, pins)

    def whole(self, conversation_id: str) -> WholeConversation:
        query = "SELECT id, created_at, title, archived_at FROM conversations WHERE id = ?"
        ((id, created_at, title, archived_at),) = self._rows(query, conversation_id)
        tree = self.tree(conversation_id)
        return WholeConversation(id, created_at, title, archived_at, tree.head, tree.pins, tree.turns)

    def put(self, conversations: Sequence[WholeConversation]) -> None:
        """Store whole conversations, all or none; one that is there but deleted is replaced."""
        with self._transaction():
            for one in conversations:
                self._replace_deleted(one.id)
                values = (one.id, one.created_at, one.title, one.archived_at)
                self._db.execute(
                    "INSERT INTO conversations (id, created_at, title, archived_at) VALUES (?, ?, ?, ?)", values
                )
                self._insert(one.id, one.turns)
                self._db.executemany("UPDATE turns SET pin = ? WHERE id = ?", [(m, id) for id, m in one.pins.items()])
                self._db.execute("UPDATE conversations SET head = ? WHERE id = ?", (one.head, one.id))

    def known_ids(self, beginning: str = "", *, with_deleted: bool = False) -> list[str]:
        """The ids that begin so, deleted ones where they count."""
        query = "SELECT id FROM conversations WHERE (? OR deleted_at IS NULL) ORDER BY created_at"
        return [id for (id,) in self._rows(query, with_deleted) if id.startswith(beginning)]

    def turn_ids(self) -> set[str]:
        """Of all turns of conversations that are not deleted."""
        query = "SELECT id FROM turns WHERE conversation_id IN (SELECT id FROM conversations WHERE deleted_at IS NULL)"
        return {id for (id,) in self._rows(query)}

    def ids_before(self, time_s: float) -> list[str]:
        """The conversations, deleted ones too, in which nothing was said since."""
        query = """SELECT c.id FROM conversations c LEFT JOIN turns t ON t.conversation_id = c.id
            GROUP BY c.id HAVING coalesce(max(t.created_at), c.created_at) < ?"""
        return [id for (id,) in self._rows(query, time_s)]

    def turns(self, conversation_id: str) -> list[Turn]:
        """The turns from the root to the last one that was kept, oldest first."""
        tree = self.tree(conversation_id)
        known, path, id = {turn.id: turn for turn in tree.turns}, [], tree.head
        while id is not None and (turn := known.get(id)) is not None:
            path.append(turn)
            id = turn.parent_id
        return path[::-1]

    def conversations(
        self, limit: int = 20, *, archived: bool = False, deleted: bool = False
    ) -> list[ConversationInfo]:
        """The conversations, the one used last first; with `archived`, those that were put away; with `deleted`, those
        that can be restored or forgotten."""
        query = f"""
            SELECT c.id, {TITLE}, count(*), max(t.created_at), c.archived_at IS NOT NULL
            FROM conversations c JOIN turns t ON t.conversation_id = c.id AND t.deleted_at IS NULL
            WHERE (c.deleted_at IS NOT NULL) = ? AND (? OR (c.archived_at IS NOT NULL) = ?)
            GROUP BY c.id ORDER BY max(t.seq) DESC LIMIT ?"""
        rows = self._rows(query, deleted, deleted, archived, limit)
        return [ConversationInfo(id, title, turns, at, bool(is_archived)) for id, title, turns, at, is_archived in rows]

    def find(self, wanted: str) -> str:
        """The id of the conversation `wanted`: "latest", an id, or the beginning of exactly one id.

        Raises:
            Mp13Error: there is none, or several begin so.
        """
        recent = self.conversations(5)
        if wanted == LATEST and recent:
            return recent[0].id
        ids = self._rows("SELECT id FROM conversations WHERE deleted_at IS NULL")
        found = [id for (id,) in ids if wanted and id.startswith(wanted)]
        if len(found) == 1:
            return str(found[0])
        if not ids:
            raise Mp13Error(f"there is no conversation to resume in {self.path}; start one without --resume")
        listed = ", ".join(f"{info.id[:8]} ({info.title[:30]!r})" for info in recent)
        what = f"{len(found)} conversations begin with" if found else "no conversation begins with"
        raise Mp13Error(f"{what} {wanted!r}; the latest are {listed}")

    def rename(self, conversation_id: str, title: str) -> None:
        """Give a conversation a title; "" lets its first prompt name it again."""
        self._mark(conversation_id, "title", " ".join(title.split()) or None)

    def archive(self, conversation_id: str, archived: bool) -> None:
        """Put a conversation out of the list of those in use, or back."""
        self._mark(conversation_id, "archived_at", time.time() if archived else None)

    def delete(self, conversation_id: str) -> None:
        """Take a conversation out of every list and search; `restore` brings it back, `forget` ends it."""
        self._mark(conversation_id, "deleted_at", time.time())

    def restore(self, conversation_id: str) -> None:
        self._mark(conversation_id, "deleted_at", None)

    def _insert(self, conversation_id: str, turns: Sequence[Turn], on_conflict: str = "") -> None:
        columns = _COLUMNS.replace("id, ", "id, conversation_id, ", 1)
        marks = ", ".join("?" * (1 + columns.count(",")))
        insert = f"INSERT INTO turns ({columns}) VALUES ({marks}) {on_conflict}"
        self._db.executemany(insert, [_row(conversation_id, turn) for turn in turns])

    def _replace_deleted(self, id: str) -> None:
        deleted = "SELECT 1 FROM conversations WHERE id = ? AND deleted_at IS NOT NULL"
        if self._db.execute(deleted, (id,)).fetchone():
            self._db.execute("UPDATE conversations SET head = NULL WHERE id = ?", (id,))
            self._db.execute("DELETE FROM turns WHERE conversation_id = ?", (id,))
            self._db.execute("DELETE FROM conversations WHERE id = ?", (id,))

    def _mark(self, conversation_id: str, column: str, value: object) -> None:
        with self._transaction():
            marked = self._db.execute(f"UPDATE conversations SET {column} = ? WHERE id = ?", (value, conversation_id))
        if not marked.rowcount:
            raise Mp13Error(f"there is no conversation {conversation_id!r} in {self.path}; list them with /resume")


def _row(conversation_id: str, turn: Turn) -> tuple[object, ...]:
    return (
        turn.id, conversation_id, turn.parent_id, turn.role, turn.text, turn.mix, turn.system,
        None if turn.token_ids is None else json.dumps(turn.token_ids), turn.finish_reason,
        turn.provenance and turn.provenance.model_dump_json(),
        turn.metrics and _metrics.dump_json(turn.metrics).decode(), turn.created_at, turn.skipped,
    )  # fmt: skip


def _turn(row: tuple[object, ...]) -> Turn:
    values = dict(zip(_COLUMNS.split(", "), row, strict=True))
    provenance, metrics, token_ids = values["provenance"], values["metrics"], values["token_ids"]
    values["provenance"] = None if provenance is None else Provenance.model_validate_json(str(provenance))
    values["metrics"] = None if metrics is None else _metrics.validate_json(str(metrics))
    values["token_ids"] = None if token_ids is None else tuple(json.loads(str(token_ids)))
    return Turn(**values)  # type: ignore[arg-type]  # the columns have the types of the fields, by the table above
