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
    scope: str = "next prompt"
    warmth: str = ""


class Watch:
    """Looks at a session when it changes, and remembers under which mixes its history has been computed since."""

    def __init__(self) -> None:
        self._warming: str | None = None  # as it was at the last look
        self._warm: set[str] = set()
        self._answered = ""  # whose answer is the last; nobody wonders whether that one is warm

    def answered(self, mix: str) -> None:
        """An answer of `mix` is whole."""
        self._answered = mix

    def moved(self) -> None:
        """The history is another now, or is about to be."""
        self._warming, self._warm, self._answered = None, set(), ""

    def look(self, session: ChatSession) -> Outlook:
        mix, warming = session.mix, session.warming
        if self._warming == mix == session.warmed != warming:
            self._warm.add(mix)
        self._warming = warming
        warmth = "" if mix == self._answered else WARMING if warming == mix else WARM if mix in self._warm else ""
        return Outlook(mix, Outlook.scope if session.pin is None else "pinned to branch", warmth)
