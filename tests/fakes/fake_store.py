"""A store that keeps conversations in a list, newest first. What is deleted is kept aside, as in the real one."""

from dataclasses import dataclass, replace

from mp13.errors import Mp13Error


@dataclass(frozen=True)
class Info:
    id: str
    title: str
    turns: int
    updated_at: float
    archived: bool = False


@dataclass(frozen=True)
class Hit:
    conversation_id: str
    title: str
    turn_id: str
    snippet: str


class FakeStore:
    """`texts` are what is said in the conversations, by id. With `broken`, every call fails."""

    def __init__(self, *infos: Info, texts: dict[str, str] | None = None) -> None:
        self.infos = list(infos)
        self.texts = texts or {}
        self.deleted: dict[str, Info] = {}
        self.broken = ""

    def conversations(self, limit: int = 20, *, archived: bool = False) -> list[Info]:
        self._check()
        return [info for info in self.infos if info.archived == archived][:limit]

    def search(self, text: str, limit: int = 20) -> list[Hit]:
        self._check()
        hits = [Hit(info.id, info.title, "t", self.texts.get(info.id, info.title)) for info in self.infos]
        return [hit for hit in hits if text.lower() in f"{hit.title} {hit.snippet}".lower()][:limit]

    def rename(self, id: str, title: str) -> None:
        self._change(id, title=title)

    def archive(self, id: str, archived: bool) -> None:
        self._change(id, archived=archived)

    def delete(self, id: str) -> None:
        self._check()
        self.deleted[id] = next(info for info in self.infos if info.id == id)
        self.infos = [info for info in self.infos if info.id != id]

    def restore(self, id: str) -> None:
        self._check()
        self.infos = sorted([*self.infos, self.deleted.pop(id)], key=lambda info: -info.updated_at)

    def _change(self, id: str, **changes: object) -> None:
        self._check()
        self.infos = [replace(info, **changes) if info.id == id else info for info in self.infos]  # type: ignore[arg-type]

    def _check(self) -> None:
        if self.broken:
            raise Mp13Error(self.broken)
