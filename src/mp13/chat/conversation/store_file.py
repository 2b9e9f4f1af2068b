"""The open conversations file: private to its owner, in WAL mode, of this version's schema, with errors in sentences.

What is stored in it is store.py's.
"""

import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Self

from mp13.chat.conversation.store_schema import migrate
from mp13.errors import Mp13Error
from mp13.library.paths import data_dir

_BUSY_S = 5.0  # how long another chat may hold the file before a write gives up
_REPAIR = "`mp13 history repair` recovers what can be read; or use --no-log"
_REMEDY = "move it away, use --no-log, or set MP13_DATA_DIR elsewhere"
_REMEDIES = (
    ("not a database", _REPAIR),
    ("malformed", _REPAIR),
    ("corrupt", _REPAIR),
    ("is full", "make room on the disk"),
    ("readonly", "make it and its folder writable, or set MP13_DATA_DIR elsewhere"),
    ("locked", "another program holds it for long; end that, or wait"),
)


class StoreFile:
    """One process may hold several, and several processes one file each.

    Raises:
        Mp13Error: from any call, when the file cannot be read or written, with what to do about it.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or data_dir() / "conversations.db"
        self.waiting: list[Callable[[], None]] = []  # what could not be stored yet, in order, and why: keeping.py's
        self.failure: str | None = None
        _create_private(self.path)
        with self._explained():
            # its users are careful to call from one thread at once, not always the same
            self._db = sqlite3.connect(self.path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
            try:
                self._into_wal()
                self._db.execute("PRAGMA synchronous = FULL")
                self._db.execute("PRAGMA foreign_keys = ON")
                self._db.execute("PRAGMA secure_delete = ON")
                with self._transaction():  # immediate, so that of two first chats one creates and the other sees it
                    migrate(self._db, self.path)
            except BaseException:
                self._db.close()
                raise

    def _into_wal(self) -> None:
        """Of two first chats at once, SQLite refuses one without waiting for the other."""
        deadline = time.monotonic() + _BUSY_S
        while True:
            try:
                self._db.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._db.close()

    def recover(
        self,
        conversation_columns: Sequence[str],
        conversations: Iterable[Mapping[str, object]],
        turn_columns: Sequence[str],
        turns: Iterable[Mapping[str, object]],
    ) -> None:
        """Fill a new file with rows that were read out of a broken one, as they are."""
        with self._transaction():
            self._db.execute("PRAGMA defer_foreign_keys = ON")  # conversations and turns name each other
            for table, columns, rows in (
                ("conversations", conversation_columns, conversations),
                ("turns", turn_columns, turns),
            ):
                marks = ", ".join("?" * len(columns))
                insert = f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})"
                self._db.executemany(insert, [[row[column] for column in columns] for row in rows])

    def _rows(self, query: str, *values: object) -> list[Any]:
        with self._explained(), closing(self._db.execute(query, values)) as rows:
            return rows.fetchall()

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
    def _hurried(self) -> Iterator[None]:
        """What is committed in it survives the end of the process, not that of the machine; no lock is waited for."""
        with self._explained():
            self._db.execute("PRAGMA synchronous = NORMAL")
            self._db.execute("PRAGMA busy_timeout = 0")
            try:
                yield
            finally:
                self._db.execute("PRAGMA synchronous = FULL")
                self._db.execute(f"PRAGMA busy_timeout = {round(_BUSY_S * 1000)}")

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            remedy = next((remedy for sign, remedy in _REMEDIES if sign in str(error)), _REMEDY)
            raise Mp13Error(f"{self.path} cannot be used ({error}); {remedy}") from error


def _create_private(path: Path) -> None:
    """Make the file its owner's alone from the moment it exists; SQLite gives its side files the same mode."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with suppress(FileExistsError):  # to open and close it again would take SQLite's locks from this process
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        if path.stat().st_mode & 0o077:
            path.chmod(0o600)
    except OSError as error:
        raise Mp13Error(
            f"{path} cannot be written ({error.strerror}); set MP13_DATA_DIR to a folder you can write, or use --no-log"
        ) from error
