"""What the next prompt can expect: which mix answers it, for how long that is so, and whether its history is warm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mp13.chat.conversation.session import ChatSession

WARMING, WARM = "warming", "warm"


@dataclass(frozen=True)
class Outlook:
    """`scope` is what the mix holds for; `warmth`, whether the history is computed under it, "" if not known."""

    mix: str = "base"
    scope: str = "answers the next prompt"
    warmth: str = ""


class Watch:
    """Looks at a session now and then, and remembers under which mixes its history is computed."""

    def __init__(self) -> None:
        self._warming: str | None = None  # as it was at the last look
        self._warm: set[str] = set()

    def answered(self, mix: str) -> None:
        """An answer of `mix` is whole: it left its history warm."""
        self._warm.add(mix)

    def moved(self) -> None:
        """The history is another now, or is about to be."""
        self._warming, self._warm = None, set()

    def look(self, session: ChatSession) -> Outlook:
        warming = session.warming
        if self._warming == session.mix != warming:  # it came to its end: a switch would have changed the mix too
            self._warm.add(session.mix)
        self._warming = warming
        warmth = WARMING if warming == session.mix else WARM if session.mix in self._warm else ""
        return Outlook(session.mix, Outlook.scope if session.pin is None else "pinned to this branch", warmth)
