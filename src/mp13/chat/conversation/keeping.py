"""What happens to a conversation, on its way to disk. Where that fails it waits, and nothing is lost while the chat
lives. What a conversation is, is tree.py's; the file store.py's.
"""

from collections.abc import Callable, Collection, Sequence
from contextlib import suppress

from mp13.chat.conversation.store import ConversationStore
from mp13.chat.conversation.turn import Turn
from mp13.errors import Mp13Error


class Keeper:
    """Stores in the order in which things happen; on disk when the call returns, unless the store's `failure` says why
    not. What could not be stored waits at the store, whatever conversation comes next, and is tried again with that.

    Without a store nothing is kept.
    """

    def __init__(self, store: ConversationStore | None, conversation_id: str) -> None:
        self._store = store
        self._id = conversation_id

    @property
    def failure(self) -> str | None:
        return self._store.failure if self._store is not None else None

    def add(self, turn: Turn, kept: bool = True) -> None:
        self._do(lambda store: store.add(self._id, turn, kept))

    def add_all(self, turns: Sequence[Turn]) -> None:
        self._do(lambda store: store.add_all(self._id, turns, head=turns[-1].id))

    def move(self, head: str | None, removed: Collection[str], restored: Collection[str]) -> None:
        self._do(lambda store: store.move(self._id, head, removed, restored))

    def pin(self, turn_id: str, mix: str | None) -> None:
        self._do(lambda store: store.pin(turn_id, mix))

    def skip(self, turn_id: str, exchanges: int) -> None:
        self._do(lambda store: store.skip(turn_id, exchanges))

    def draft(self, turn: Turn, kept: bool) -> None:
        """Put an answer on disk as far as it has come, if that is quickly done; its end is stored in any case."""
        if self._store is not None and not self._store.waiting:
            with suppress(Mp13Error):
                self._store.draft(self._id, turn, kept)

    def flush(self) -> None:
        """Try again to store what waits."""
        if (store := self._store) is None:
            return
        try:
            while store.waiting:
                store.waiting[0]()
                store.waiting.pop(0)
            store.failure = None
        except Mp13Error as error:
            store.failure = str(error)

    def _do(self, what: Callable[[ConversationStore], None]) -> None:
        if (store := self._store) is not None:
            store.waiting.append(lambda: what(store))
            self.flush()
