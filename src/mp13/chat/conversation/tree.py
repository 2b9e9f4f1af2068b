"""The turns of one conversation: a tree, and in it the path from a first turn to the last.

Where there is a store, what is added or moved here is on disk when the call returns, or waits in keeping.py. Who
answers is session.py's.
"""

import uuid
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Self

from mp13.chat.conversation.keeping import Keeper
from mp13.chat.conversation.store import ConversationStore, StoredTree, WholeConversation
from mp13.chat.conversation.turn import Turn
from mp13.chat.text import number_in
from mp13.errors import ConfigError, MixError
from mp13.mix import parse_mix

_LETTERS_OF_ID = 4  # fewer are a number


@dataclass(frozen=True)
class _State:
    """What undo goes back to."""

    head: str | None
    deleted: frozenset[str]


class Conversation:
    """An answer keeps its own conversation, whatever /new does while it is written. `turns` is the path. What cannot
    be stored stays in memory, and its `keeper` says why.

    Raises:
        ConfigError: from any call, when it names a turn that is not there, or asks for what cannot be; nothing changed.
    """

    def __init__(self, store: ConversationStore | None, id: str | None = None) -> None:
        self.id = id or uuid.uuid4().hex
        self.turns: list[Turn] = []
        self._store = store
        self._known: dict[str, Turn] = {}
        self._children: defaultdict[str | None, list[str]] = defaultdict(list)  # in the order in which they began
        self._taken: dict[str | None, str] = {}  # the child that was on the path last
        self._pins: dict[str, str] = {}
        self._first_pin: str | None = None  # of a conversation that has no turn yet
        self.keeper = Keeper(store, self.id)
        self._deleted: frozenset[str] = frozenset()
        self._done: list[_State] = []
        self._undone: list[_State] = []

    @classmethod
    def stored(cls, store: ConversationStore, id: str) -> Self:
        conversation = cls(store, id)
        tree: StoredTree = store.tree(id)
        for turn in tree.turns:
            conversation._know(turn)
        conversation._pins = tree.pins
        conversation._go(tree.head if tree.head in conversation._known else None)
        return conversation

    def whole(self) -> WholeConversation:
        """All of it; a title is the store's to know."""
        turns = [turn for id, turn in self._known.items() if id not in self._deleted]
        at = turns[0].created_at if turns else 0.0
        return WholeConversation(self.id, at, None, None, self.head, dict(self._pins), turns)

    @property
    def head(self) -> str | None:
        return self.turns[-1].id if self.turns else None

    @property
    def prompt(self) -> Turn | None:
        """The last prompt of the path."""
        return next((turn for turn in reversed(self.turns) if turn.role == "user"), None)

    @property
    def asked(self) -> list[Turn]:
        """The path as far as the last prompt."""
        return self.turns[: 1 + max((i for i, turn in enumerate(self.turns) if turn.role == "user"), default=-1)]

    @property
    def answers(self) -> list[Turn]:
        """Every answer to the last prompt, those of a comparison in its order; one of them may end the path."""
        return [turn for turn in self._below(self.prompt.id) if turn.role == "assistant"] if self.prompt else []

    @property
    def pin(self) -> str | None:
        """The mix that answers in this branch, whatever is chosen; None where the choice is free."""
        return self.pin_on(self.turns)

    def pin_on(self, path: list[Turn]) -> str | None:
        """The pin of the branch in which `path` ends."""
        said = [self._pins[turn.id] for turn in path if turn.id in self._pins]
        return (said[-1] if said else self._first_pin) or None

    def turn(self, which: str) -> Turn:
        """A turn by its number on the path from 1, by its id, or by the beginning of its id (from four letters on)."""
        if (number := number_in(which, 1, len(self.turns))) is not None:
            return self.turns[number - 1]
        found = [turn for id, turn in self._known.items() if id.startswith(which) and id not in self._deleted]
        if len(found) != 1 or len(which) < _LETTERS_OF_ID:
            raise ConfigError(f"there is no turn {which!r} here; turns have the numbers 1 to {len(self.turns)}")
        return found[0]

    def prompt_of(self, turn: Turn) -> Turn:
        """`turn`, or the prompt that it answers."""
        return turn if turn.role == "user" or turn.parent_id is None else self._known[turn.parent_id]

    def path_to(self, turn: Turn) -> list[Turn]:
        """From the root to `turn`, oldest first."""
        path = [turn]
        while (parent := path[-1].parent_id) is not None:
            path.append(self._known[parent])
        return path[::-1]

    def path_before(self, turn: Turn) -> list[Turn]:
        """From the root to what `turn` follows."""
        return self.path_to(turn)[:-1]

    def siblings(self, turn: Turn) -> list[Turn]:
        """The turns that stand beside `turn`, itself too, in the order in which they began."""
        return self._below(turn.parent_id)

    def subtree(self, turn: Turn) -> list[Turn]:
        """`turn` and all that came after it, parents first."""
        found = [turn]
        for one in found:
            found += self._below(one.id)
        return found

    def ask(self, turn: Turn) -> None:
        """Go on with a prompt, under the last turn or, where it has another parent, beside what came after that."""
        before = self._state()
        self.keeper.add(turn)
        self._know(turn)
        self._go(turn.id)
        self._pin_first(turn)
        self._remember(before)

    def ask_again(self, prompt: Turn) -> None:
        """Let the path end with a prompt that is there, for an answer beside those that it has."""
        self._remember(self._state())
        self._go(prompt.id)

    def end_asking(self) -> None:
        """The answers are over. Where none came, the path ends as it did before, if the prompt had one."""
        if self.turns and self.turns[-1].role == "user" and self._below(self.turns[-1].id):
            self._go(self._end_below(self.turns[-1].id))
            if self._done and self._done[-1] == self._state():
                self._done.pop()

    def answer(self, turn: Turn, place: int) -> None:
        """Put an answer beside the others. The first is kept, and any other as long as there is none."""
        kept = place == 0 or self.turns[-1].role == "user"
        self._know(turn)
        if kept:
            self._go(turn.id)
        self.keeper.add(turn, kept)

    def draft(self, turn: Turn, place: int) -> None:
        """Have what came of an answer so far on disk, in case this process is killed. Nothing changes here."""
        self.keeper.draft(turn, kept=place == 0)

    def skip(self, exchanges: int) -> None:
        """Leave the oldest `exchanges` out of what the model reads for the last prompt and those after it."""
        prompt = self.prompt
        assert prompt is not None
        self.keeper.skip(prompt.id, exchanges)
        changed = replace(prompt, skipped=exchanges)
        self._known[prompt.id] = changed
        self.turns[self.turns.index(prompt)] = changed

    def keep(self, which: str) -> Turn:
        """End the path with another answer to the last prompt, named by its mix or its number from 1."""
        answers, mix = self.answers, which
        with suppress(MixError):
            mix = str(parse_mix(which))
        found = [turn for turn in answers if turn.mix == mix][-1:]
        if not found and (number := number_in(which, 1, len(answers))) is not None:
            found = [answers[number - 1]]
        if not found:
            there = ", ".join(f"{number} ({turn.mix})" for number, turn in enumerate(answers, start=1)) or "none"
            raise ConfigError(f"there is no answer {which!r} to the last prompt to keep; there: {there}")
        self._move(found[0].id)
        return found[0]

    def walk(self, turn: Turn, step: int) -> Turn:
        """Put the sibling `step` places after `turn` on the path, and what was last seen below it."""
        beside = self.siblings(turn)
        place = beside.index(turn) + step
        if not 0 <= place < len(beside):
            raise ConfigError(
                f"there is nothing {'before' if step < 0 else 'after'} {place - step + 1} of {len(beside)}"
            )
        self._move(self._end_below(beside[place].id))
        return beside[place]

    def go(self, turn: Turn) -> None:
        """Put `turn` on the path, and what was last seen below it."""
        if turn not in self.turns:
            self._move(self._end_below(turn.id))

    def delete(self, turn: Turn) -> int:
        """Take away `turn` and all that came after it; `undo` brings it back. Returns how many turns that are."""
        gone = [one.id for one in self.subtree(turn)]
        beside = [one for one in self.siblings(turn) if one.id != turn.id]
        head = self.head
        if turn in self.turns:
            head = self._end_below(beside[-1].id) if beside else turn.parent_id
        self._move(head, self._deleted | set(gone))
        return len(gone)

    def set_pin(self, mix: str | None, turn: Turn | None = None) -> None:
        """Let `mix` answer in this branch from `turn` of the path on, else from its end; None lets the choice be free.
        What was pinned further on in the path holds no more."""
        if not self.turns:
            self._first_pin = mix
            return
        place = len(self.turns) - 1 if turn is None else self.turns.index(turn)
        for after in self.turns[place + 1 :]:
            if self._pins.pop(after.id, None) is not None:
                self.keeper.pin(after.id, None)
        self.keeper.pin(self.turns[place].id, mix or "")
        self._pins[self.turns[place].id] = mix or ""

    def undo(self) -> None:
        """Take back the last thing that was done to the tree: a prompt, an answer, a walk, a deletion."""
        self._swap(self._done, self._undone, "undo")

    def redo(self) -> None:
        self._swap(self._undone, self._done, "do again")

    def copy(self, path: Iterable[Turn]) -> Self:
        """A conversation of its own with these turns, kept where this one is."""
        made, turns = type(self)(self._store), list[Turn]()
        for turn in path:
            turns.append(replace(turn, id=uuid.uuid4().hex, parent_id=turns[-1].id if turns else None))
            made._know(turns[-1])
        made._go(turns[-1].id if turns else None)
        if turns:
            made.keeper.add_all(turns)
        return made

    def _below(self, id: str | None) -> list[Turn]:
        return [self._known[child] for child in self._children[id] if child not in self._deleted]

    def _know(self, turn: Turn) -> None:
        beside = self._children[turn.parent_id]
        beside.append(turn.id)
        self._known[turn.id] = turn
        beside.sort(key=lambda id: self._known[id].created_at)

    def _go(self, head: str | None) -> None:
        self.turns[:] = [] if head is None else self.path_to(self._known[head])
        self._taken.update({turn.parent_id: turn.id for turn in self.turns})

    def _end_below(self, id: str) -> str:
        """The leaf that was last seen below a turn; where none was, the newest one."""
        while below := self._below(id):
            taken = self._taken.get(id)
            id = taken if taken is not None and taken not in self._deleted else below[-1].id
        return id

    def _pin_first(self, turn: Turn) -> None:
        if self._first_pin is not None:
            self.keeper.pin(turn.id, self._first_pin)
            self._pins[turn.id], self._first_pin = self._first_pin, None

    def _state(self) -> _State:
        return _State(self.head, self._deleted)

    def _remember(self, before: _State) -> None:
        self._done.append(before)
        self._undone.clear()

    def _move(self, head: str | None, deleted: frozenset[str] | None = None) -> None:
        before = self._state()
        self._become(_State(head, self._deleted if deleted is None else deleted))
        self._remember(before)

    def _become(self, state: _State) -> None:
        if self._known:
            removed, restored = state.deleted - self._deleted, self._deleted - state.deleted
            self.keeper.move(state.head, removed, restored)
        self._deleted = state.deleted
        self._go(state.head)

    def _swap(self, source: list[_State], target: list[_State], what: str) -> None:
        if not source:
            raise ConfigError(f"there is nothing to {what} in this conversation")
        before = self._state()
        self._become(source[-1])
        source.pop()
        target.append(before)
