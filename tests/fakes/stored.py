"""A real store with conversations in it, of fixed ages and ids."""

from dataclasses import dataclass
from pathlib import Path

from mp13.chat.conversation.store import ConversationStore
from mp13.chat.conversation.turn import Turn


@dataclass(frozen=True)
class Kept:
    """A conversation of one prompt and its answer, `age_s` seconds old at `now`."""

    id: str
    prompt: str
    answer: str = "So it is."
    age_s: float = 60.0
    archived: bool = False


def stored(path: Path, *kept: Kept, now: float) -> ConversationStore:
    """The store in the file `path`."""
    store = ConversationStore(path)
    for one in sorted(kept, key=lambda one: -one.age_s):
        asked = Turn("user", one.prompt, "base", created_at=now - one.age_s)
        said = Turn("assistant", one.answer, "base", asked.id, finish_reason="stop", created_at=now - one.age_s + 0.1)
        store.add_all(one.id * 32, [asked, said], head=said.id)
        store.archive(one.id * 32, one.archived)
    return store
