"""The turns of one conversation: the path from the first to the last, and the answers that stand beside the last.

Where there is a store, what is added here is on disk when the call returns. Who answers is session.py's.
"""

import uuid
from typing import Self

from mp13.chat.conversation.store import ConversationStore
from mp13.chat.conversation.turn import Turn
from mp13.errors import ConfigError, MixError
from mp13.mix import parse_mix


class Conversation:
    """An answer keeps its own conversation, whatever /new does while it is written. `turns` is the path."""

    def __init__(self, store: ConversationStore | None, id: str | None = None) -> None:
        self.id = id or uuid.uuid4().hex
        self.turns: list[Turn] = []
        self._store = store
        self._answers: dict[int, Turn] = {}  # to the last prompt, by place

    @classmethod
    def stored(cls, store: ConversationStore, id: str) -> Self:
        conversation = cls(store, id)
        conversation.turns = store.turns(id)
        if (prompt := conversation.prompt) is not None:
            conversation._answers = dict(enumerate(store.answers(prompt.id)))
        return conversation

    @property
    def prompt(self) -> Turn | None:
        """The last prompt."""
        return next((turn for turn in reversed(self.turns) if turn.role == "user"), None)

    @property
    def asked(self) -> list[Turn]:
        """The path as far as the last prompt."""
        return self.turns[: 1 + max((i for i, turn in enumerate(self.turns) if turn.role == "user"), default=-1)]

    @property
    def answers(self) -> list[Turn]:
        """Every answer to the last prompt; one of them ends the path."""
        return [self._answers[place] for place in sorted(self._answers)]

    def ask(self, turn: Turn) -> None:
        """Go on with a prompt."""
        if self._store is not None:
            self._store.add(self.id, turn)
        self.turns.append(turn)
        self._answers = {}

    def make_room(self, count: int) -> None:
        """`count` new answers to the last prompt come before those that it has."""
        self._answers = {place + count: turn for place, turn in self._answers.items()}

    def answer(self, turn: Turn, place: int) -> None:
        """Put an answer beside the others. The first is kept, and any other as long as there is none."""
        kept = place == 0 or self.turns[-1].role == "user"
        if self._store is not None:
            self._store.add(self.id, turn, kept)
        self._answers[place] = turn
        if kept:
            self.turns[:] = [*self.asked, turn]

    def keep(self, which: str) -> Turn:
        """End the path with another answer to the last prompt, named by its mix or its number from 1.

        Raises:
            ConfigError: there is no such answer.
        """
        answers = self.answers
        found = [turn for turn in answers if turn.mix == _canonical(which)]
        if not found and which.isascii() and which.isdigit() and 1 <= int(which) <= len(answers):
            found = [answers[int(which) - 1]]
        if not found:
            there = ", ".join(f"{number} ({turn.mix})" for number, turn in enumerate(answers, start=1)) or "none"
            raise ConfigError(f"there is no answer {which!r} to the last prompt to keep; there: {there}")
        if self._store is not None:
            self._store.keep(self.id, found[0].id)
        self.turns[:] = [*self.asked, found[0]]
        return found[0]


def _canonical(mix: str) -> str | None:
    try:
        return str(parse_mix(mix))
    except MixError:
        return None
