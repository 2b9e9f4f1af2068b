"""Adapters' contents by digest: at most so many in host memory, all others on disk where they were read from.

Reads them again, checked by digest, when they are needed. Knows no names, no slots and no requests.
"""

from collections import OrderedDict
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

from mp13.engine.adapters.adapter_file import LoadedAdapter
from mp13.engine.adapters.budget import device_bytes
from mp13.errors import AdapterError

Read = Callable[[Path, str], LoadedAdapter]  # (folder, name) -> content; raises AdapterError


@dataclass
class Content:
    """What stays known of an adapter wherever its tensors are."""

    name: str  # of its first load; errors say it
    invocation_tokens: tuple[int, ...]  # empty unless it is an activated LoRA
    device_bytes: int
    folders: dict[Path, None] = field(default_factory=dict)  # where it was read, in order
    effect: float | None = None


class AdapterContents:
    def __init__(self, max_in_memory: int, read: Read) -> None:
        self._max_in_memory = max_in_memory
        self._read = read
        self._by_digest: dict[str, Content] = {}
        self._memory: OrderedDict[str, LoadedAdapter] = OrderedDict()  # least recently used first

    def __getitem__(self, digest: str) -> Content:
        return self._by_digest[digest]

    def __contains__(self, digest: str) -> bool:
        return digest in self._by_digest

    def __len__(self) -> int:
        return len(self._by_digest)

    @property
    def in_memory(self) -> Collection[str]:
        return self._memory.keys()

    def effect(self, digest: str) -> float | None:
        """None, too, for a content that was forgotten: other threads ask for it."""
        content = self._by_digest.get(digest)
        return content.effect if content else None

    def add(self, adapter: LoadedAdapter, folder: Path) -> None:
        digest = adapter.info.digest
        if digest not in self._by_digest:
            size = device_bytes(adapter.deltas)
            self._by_digest[digest] = Content(adapter.info.name, adapter.invocation_tokens or (), size)
        self._by_digest[digest].folders[folder] = None
        self._memory.setdefault(digest, adapter)
        self._memory.move_to_end(digest)

    def find(self, digest: str) -> LoadedAdapter:
        """The content, from memory or else from disk.

        Raises:
            AdapterError: none of the folders it was read from holds it any more.
        """
        if digest not in self._memory:
            self._memory[digest] = self._read_again(self._by_digest[digest], digest)
        self._memory.move_to_end(digest)
        return self._memory[digest]

    def used(self, digest: str) -> None:
        if digest in self._memory:
            self._memory.move_to_end(digest)

    def shrink(self, may_leave: Callable[[str], bool]) -> None:
        """Drop the least recently used from memory until no more than the limit are left, or no other may leave."""
        excess = len(self._memory) - self._max_in_memory
        for digest in [digest for digest in self._memory if excess > 0 and may_leave(digest)][: max(0, excess)]:
            del self._memory[digest]

    def forget(self, digest: str) -> None:
        self._by_digest.pop(digest, None)
        self._memory.pop(digest, None)

    def _read_again(self, content: Content, digest: str) -> LoadedAdapter:
        problem = ""
        for folder in content.folders:
            try:
                adapter = self._read(folder, content.name)
            except AdapterError as error:
                problem = str(error)
            else:
                if adapter.info.digest == digest:
                    return adapter
                problem = f"{folder} holds another adapter now"
        raise AdapterError(f"{content.name!r} had to be read from disk again, but {problem}; load it again")
