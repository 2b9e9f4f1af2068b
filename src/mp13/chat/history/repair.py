"""Makes a conversations file that SQLite cannot read into one that it can: what can be read goes into a new file, the
broken one stays beside it, untouched."""

import json
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mp13.chat.conversation.store import ConversationStore
from mp13.chat.conversation.store_schema import SCHEMA_VERSION
from mp13.chat.history.raw_pages import raw_rows
from mp13.errors import ConfigError, Mp13Error

_ROW_BYTES = 40  # no turn takes less of a file
_CONVERSATION = ("id", "created_at", "head", "title", "archived_at", "deleted_at")
_TURN = (
    "seq", "id", "conversation_id", "parent_id", "role", "text", "mix", "system", "token_ids", "finish_reason",
    "provenance", "metrics", "created_at", "skipped", "pin", "deleted_at",
)  # fmt: skip

_IN_JSON = ("token_ids", "provenance", "metrics")

Row = dict[str, Any]


@dataclass(frozen=True)
class Repaired:
    """`problem` is what SQLite said, None of a file that is whole and was left alone; `aside` is where the broken file
    is now. `lost` turns were seen and could not be read; of what was not seen nobody knows."""

    problem: str | None
    aside: Path | None = None
    conversations: int = 0
    turns: int = 0
    lost: int = 0

    def __str__(self) -> str:
        if self.problem is None:
            return "the conversations file is whole; nothing was changed"
        lost = f"{self.lost:,} turns could not be read" if self.lost else "no turn was seen that could not be read"
        return (
            f"the conversations file was broken ({self.problem}): {self.turns:,} turns of {self.conversations:,} "
            f"conversations are recovered, {lost}; the broken file is {self.aside}"
        )


def repair(path: Path) -> Repaired:
    """See whether the file is broken, and if it is, put a new one with what can be read in its place.

    Raises:
        ConfigError: there is no file, or a chat has it open.
        Mp13Error: it is of a newer version, or a new file cannot be written; nothing was changed then.
    """
    if not path.exists():
        raise ConfigError(f"there is no file {path}; nothing is to be repaired")
    if _is_open(path):
        raise ConfigError(f"a chat has {path} open; end it, and repair then")
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".mp13-repair-") as folder:
            copy, new = Path(folder) / "copy.db", Path(folder) / "new.db"
            _copy(path, copy)
            if (problem := _problem(copy, path)) is None:
                return Repaired(None)
            conversations, turns, lost = _readable(copy, path)
            _write(new, conversations, turns)
            aside = _free_name(path)
            _copy(path, aside)
            for end in ("-wal", "-shm"):  # of the broken file; SQLite would read them into the new one
                path.with_name(path.name + end).unlink(missing_ok=True)
            new.replace(path)
    except OSError as error:
        raise Mp13Error(f"{path} cannot be repaired ({error.strerror or error}); make room beside it") from None
    return Repaired(problem, aside, len(conversations), len(turns), lost)


def _is_open(path: Path) -> bool:
    """Whether another process has the file open as SQLite does, which keeps a lock on these bytes as long."""
    try:
        import fcntl
    except ImportError:  # Windows, where a file that is open cannot be replaced anyway
        return False
    with path.open("r+b") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 510, 0x40000002)
        except BlockingIOError:
            return True
    return False


def _problem(copy: Path, path: Path) -> str | None:
    try:
        with closing(sqlite3.connect(copy, isolation_level=None)) as db:
            (version,) = db.execute("PRAGMA user_version").fetchone()
            if version > SCHEMA_VERSION:
                raise Mp13Error(f"{path} was written by a newer mp13 (its schema is {version}); update mp13")
            found = [row[0] for row in db.execute("PRAGMA integrity_check(1)")]
            if found != ["ok"]:
                return " ".join(str(found[0]).split())
            db.execute("SELECT count(*) FROM conversations, turns LIMIT 0")
            db.execute("INSERT INTO turns_text (turns_text, rank) VALUES ('integrity-check', 1)")
    except sqlite3.Error as error:
        return str(error)
    return None


def _readable(copy: Path, path: Path) -> tuple[dict[str, Row], dict[str, Row], int]:
    """Conversations and turns by id, and how many turns were seen that could not be read."""
    lost = 0
    raw_conversations, raw_turns = _raw(path)  # of which SQLite has moved nothing yet
    conversations: dict[str, Row] = {}
    turns: dict[str, Row] = {}
    with closing(sqlite3.connect(copy, isolation_level=None)) as db:
        db.text_factory = lambda data: data.decode("utf-8", "replace")
        for row in _rows(db, "conversations", _CONVERSATION, "rowid", copy):
            if row is not None and _is_conversation(row):
                conversations[row["id"]] = row
        for row in _rows(db, "turns", _TURN, "seq", copy):
            if row is None or not _is_turn(row):
                lost += 1
            else:
                turns[row["id"]] = row
    taken = {row["seq"] for row in turns.values()}
    more = [row for row in raw_turns if row["id"] not in turns and row["seq"] not in taken]
    turns |= {row["id"]: row for row in {row["seq"]: row for row in more}.values()}
    lost = max(0, lost - len(more))
    turns = dict(sorted(turns.items(), key=lambda item: int(item[1]["seq"])))
    conversations = {row["id"]: row for row in raw_conversations} | conversations
    _mend(conversations, turns)
    return conversations, turns, lost


def _raw(path: Path) -> tuple[list[Row], list[Row]]:
    """Conversations and turns as they stand in the pages, whatever leads to these."""
    conversations, turns = [], []
    for rowid, values in raw_rows(path):
        of_turn = dict.fromkeys(_TURN) | dict(zip(_TURN, [rowid, *values[1:]], strict=False))
        of_conversation = dict.fromkeys(_CONVERSATION) | dict(zip(_CONVERSATION, values, strict=False))
        for row in (of_turn, of_conversation):
            for column in ("created_at", "archived_at", "deleted_at"):  # SQLite writes whole numbers as such
                if isinstance(number := row.get(column), int):
                    row[column] = float(number)
        if len(_TURN) - 3 <= len(values) <= len(_TURN) and _is_turn(of_turn):
            turns.append(of_turn)
        elif len(values) <= len(_CONVERSATION) and _is_conversation(of_conversation):
            conversations.append(of_conversation)
    return conversations, turns


def _rows(db: sqlite3.Connection, table: str, columns: tuple[str, ...], key: str, copy: Path) -> Iterator[Row | None]:
    """One after the other, None for one that is there and cannot be read."""
    with suppress(sqlite3.Error):
        there = [row[1] for row in db.execute(f"PRAGMA table_info({table})")]
        shared = [column for column in columns if column in there]
        query, empty = f"SELECT {key}, {', '.join(shared)} FROM {table} WHERE {key}", dict.fromkeys(columns)
        place, last = 0, _last(db, table, key, copy)
        while shared and place < last:
            try:
                for row in db.execute(f"{query} > ? ORDER BY {key}", (place,)):
                    place = row[0]
                    yield empty | dict(zip(shared, row[1:], strict=True))
                return
            except sqlite3.Error:
                place += 1
            try:
                found = db.execute(f"{query} = ?", (place,)).fetchone()
            except sqlite3.Error:
                yield None
            else:
                if found is not None:
                    yield empty | dict(zip(shared, found[1:], strict=True))


def _last(db: sqlite3.Connection, table: str, key: str, copy: Path) -> int:
    """The last key there may be."""
    for query in (f"SELECT max({key}) FROM {table}", f"SELECT max({key}) FROM {table} NOT INDEXED"):
        with suppress(sqlite3.Error):
            return int(db.execute(query).fetchone()[0] or 0)
    return copy.stat().st_size // _ROW_BYTES


def _is_conversation(row: Row) -> bool:
    return isinstance(row["id"], str) and isinstance(row["created_at"], float)


def _is_turn(row: Row) -> bool:
    texts = all(isinstance(row[column], str) for column in ("id", "conversation_id", "text", "mix"))
    return texts and row["role"] in ("user", "assistant") and isinstance(row["created_at"], float)


def _mend(conversations: dict[str, Row], turns: dict[str, Row]) -> None:
    """A turn whose parent is lost follows the turn of the other role before it; a path that lost its end ends with the
    last turn; a conversation that is lost is made from its turns."""
    last: dict[tuple[str, str], str] = {}
    for row in turns.values():
        _drop_garbage(row)
        of = row["conversation_id"]
        other = "user" if row["role"] == "assistant" else "assistant"
        if row["parent_id"] is not None and row["parent_id"] not in turns:
            row["parent_id"] = last.get((of, other))
        last[of, row["role"]] = row["id"]
        made = conversations.setdefault(of, dict.fromkeys(_CONVERSATION) | {"id": of, "created_at": row["created_at"]})
        made["newest"] = row["id"]
    for id in [id for id, row in conversations.items() if "newest" not in row]:
        del conversations[id]
    for row in conversations.values():
        newest = row.pop("newest")
        row["head"] = row["head"] if row["head"] in turns else newest


def _drop_garbage(row: Row) -> None:
    """Of what a turn need not have."""
    for column in ("parent_id", "system", "token_ids", "finish_reason", "provenance", "metrics", "pin"):
        value = row[column]
        try:
            is_good = value is None or (
                isinstance(value, str) and (column not in _IN_JSON or json.loads(value) is not None)
            )
        except (ValueError, TypeError):
            is_good = False
        row[column] = value if is_good else None
    row["skipped"] = row["skipped"] if isinstance(row["skipped"], int) else 0


def _write(new: Path, conversations: dict[str, Row], turns: dict[str, Row]) -> None:
    with ConversationStore(new) as store:
        store.recover(_CONVERSATION, conversations.values(), _TURN, turns.values())


def _free_name(path: Path) -> Path:
    number = 1
    while (aside := path.with_name(f"{path.name}.broken-{number}")).exists():
        number += 1
    return aside


def _copy(path: Path, to: Path) -> None:
    """With what SQLite keeps beside it."""
    for end in ("", "-wal"):
        source, target = path.with_name(path.name + end), to.with_name(to.name + end)
        if source.exists():
            with open(target, "xb", opener=lambda name, flags: os.open(name, flags, 0o600)) as out:
                with source.open("rb") as file:
                    shutil.copyfileobj(file, out)
                out.flush()
                os.fsync(out.fileno())
