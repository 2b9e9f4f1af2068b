"""Where a session is: in which conversation and on which of its branches, and how it comes to another.

What the turns are is conversation/tree.py's; what is asked at their end session.py's.
"""

from abc import abstractmethod
from dataclasses import replace

from mp13.chat.conversation.answer import exchanges as exchanges_of
from mp13.chat.conversation.sampling import sampled_as
from mp13.chat.conversation.session_view import SessionView
from mp13.chat.conversation.tree import Conversation
from mp13.chat.conversation.turn import Turn
from mp13.errors import ConfigError, Mp13Error


class SessionPath(SessionView):
    @abstractmethod
    def warm(self) -> None:
        """The history is another now; compute it while nothing else is to be done."""

    @property
    def tree(self) -> Conversation:
        """The conversation, to be moved in. Raises Mp13Error while an answer to it is being written."""
        if self._is_answering:
            raise Mp13Error("the answers are still being written; wait for them or stop them first")
        return self._conversation

    def moved(self) -> None:
        """To be called when the path of `tree` has become another: its branch may be pinned, and is not warm."""
        self.mix = self._conversation.pin or self.mix
        self.warm()

    def keep_preview(self, turn: Turn) -> None:
        """Put the answer `turn`, which was a preview, beside those that its prompt has, and go on with it."""
        tree = self.tree
        tree.ask_again(tree.prompt_of(turn))
        tree.answer(turn, 0)
        self.moved()

    def fork(self, turn: Turn) -> None:
        """Go on in a conversation of its own, with a copy of the path as far as `turn`."""
        self._conversation = self.tree.copy(self.tree.path_to(turn))
        self.moved()

    def branch(self, exchanges: int) -> None:
        """Go on in a conversation of its own that begins after the oldest `exchanges`, and ends as this one does. A
        prompt that has no answer yet goes over to it."""
        tree = self.tree
        pairs, path = exchanges_of(tree.turns), list(tree.turns)
        if not path or not 0 <= exchanges <= len(pairs):
            raise ConfigError(f"{exchanges} exchanges cannot be left behind; give 0 to {len(pairs)}")
        begin = pairs[exchanges][0] if exchanges < len(pairs) else path[-1]
        self._conversation = tree.copy(replace(turn, skipped=0) for turn in path[path.index(begin) :])
        if path[-1].role == "user" and len(tree.subtree(path[-1])) == 1:
            tree.delete(path[-1])
        self.moved()

    def new(self) -> None:
        """Start a new conversation. Mix, system prompt and engine stay."""
        self._conversation = Conversation(self._store)

    def resume(self, wanted: str) -> None:
        """Go on with a stored conversation, under its last mix, system prompt and sampling (but for what the command
        line said of that); `wanted` as for `open`.

        Raises:
            Mp13Error: nothing is stored, or there is no such conversation.
        """
        store = self.needed_store
        self._conversation = Conversation.stored(store, store.find(wanted))
        asked = self._conversation.asked[-1]
        self.mix, self.system = asked.mix, asked.system
        self.settings = sampled_as(self.settings, self.turns)
        self.moved()
