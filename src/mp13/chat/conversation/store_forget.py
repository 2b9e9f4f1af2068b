"""Forgetting: conversations whose bytes are in no file of the store afterwards, its copies from before a migration or a
repair included. Deleting, which can be undone, is store.py's."""

import sqlite3
import time
from collections.abc import Collection, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from mp13.chat.conversation.store_file import StoreFile
from mp13.errors import Mp13Error

_PATIENCE_S = 5.0
_INDEX = "INSERT INTO turns_text (turns_text) VALUES ('rebuild')"  # deleted text stays in the index until then


@dataclass(frozen=True)
class Forgotten:
    """`copies` were cleaned, too; `removed` were copies that could not be read, and are gone as a whole."""

    conversations: int
    copies: tuple[Path, ...] = ()
    removed: tuple[Path, ...] = ()


class StoreForget(StoreFile):
    def forget(self, ids: Collection[str]) -> Forgotten:
        """End these conversations, whether deleted or not.

        Raises:
            Mp13Error: another program reads the file all the time, so that it cannot be cleaned; the conversations are
                in no list any more, and forgetting again cleans it.
        """
        with self._transaction():
            _delete(self._db, ids)
        with self._explained():
            self._db.execute("PRAGMA temp_store = MEMORY")  # what is left is copied while the file is written anew
            self._db.execute("VACUUM")
            self._empty_wal()
        cleaned = {copy: _clean(copy, ids) for copy in self.copies()}
        return Forgotten(
            len(ids),
            tuple(copy for copy, is_there in cleaned.items() if is_there),
            tuple(copy for copy, is_there in cleaned.items() if not is_there),
        )

    def copies(self) -> Iterator[Path]:
        """The files that were put aside before a migration or a repair."""
        for kind in ("schema", "broken"):
            found = self.path.parent.glob(f"{self.path.name}.{kind}-*")
            yield from sorted(path for path in found if not path.name.endswith(("-wal", "-shm", "-journal")))

    def _empty_wal(self) -> None:
        until = time.monotonic() + _PATIENCE_S
        while self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
            if time.monotonic() > until:
                raise Mp13Error(
                    f"another program reads {self.path} all the time; what was forgotten is in no list any more, but "
                    "its bytes are in the file until you end that program and forget again"
                )
            time.sleep(0.05)


def _delete(db: sqlite3.Connection, ids: Collection[str]) -> None:
    columns = {row[1] for row in db.execute("PRAGMA table_info(conversations)")}
    for id in ids:
        if "head" in columns:
            db.execute("UPDATE conversations SET head = NULL WHERE id = ?", (id,))
        db.execute("DELETE FROM turns WHERE conversation_id = ?", (id,))
        db.execute("DELETE FROM conversations WHERE id = ?", (id,))
    db.execute(_INDEX)


def _clean(copy: Path, ids: Collection[str]) -> bool:
    """Whether the copy is still there: one that cannot be read holds nobody knows what."""
    try:
        with closing(sqlite3.connect(copy, isolation_level=None)) as db:
            db.execute("PRAGMA journal_mode = DELETE")
            db.execute("PRAGMA secure_delete = ON")
            db.execute("PRAGMA temp_store = MEMORY")
            _delete(db, ids)
            db.execute("VACUUM")
            return True
    except sqlite3.Error:
        for path in (copy, *(copy.with_name(copy.name + end) for end in ("-wal", "-shm", "-journal"))):
            path.unlink(missing_ok=True)
        return False
