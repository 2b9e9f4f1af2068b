"""What can be seen of a session: its settings, its turns, its engine and adapters. What can be done with it is
session.py's.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from mp13.chat.conversation.asking import Asking
from mp13.chat.conversation.connection import Connect, EngineConnection, EngineState, launch
from mp13.chat.conversation.idle import IdleWork
from mp13.chat.conversation.remarks import Remark, remarks_on
from mp13.chat.conversation.report import Report, details_of
from mp13.chat.conversation.store import ConversationStore
from mp13.chat.conversation.training import ChatTraining
from mp13.chat.conversation.tree import Conversation
from mp13.chat.conversation.turn import Turn
from mp13.chat.settings.schema import Settings
from mp13.errors import ConfigError
from mp13.library.adapters import AdapterOnDisk, available_adapters
from mp13.mix import parse_mix
from mp13.service.schema import AdapterInfo, EngineInfo

if TYPE_CHECKING:
    from mp13.service.client import EngineClient


class SessionView:
    """The state of a session, for reading."""

    def __init__(self, settings: Settings, store: ConversationStore | None, connect: Connect = launch) -> None:
        """Raises MixError when `settings.adapter` is no mix. With `store` None nothing is kept."""
        self.settings = settings
        self.given = settings  # those that the chat began with
        self.mix = str(parse_mix(settings.adapter))
        self.system = settings.system
        self._store = store
        self._connection = EngineConnection(connect)
        self._connection.on_state = lambda state: self._changed()
        self._asking = Asking(self._connection, self._changed)
        self._watcher: Callable[[], None] = lambda: None
        self._conversation = Conversation(store)
        self._no_store: str | None = None  # why there is none, where there should be one
        self._told_of_keeping: str | None = None
        self._is_answering = False
        self._idle = IdleWork()
        self.training = ChatTraining(lambda: self._connection.client, lambda: self.settings, self._changed)
        self._connection.on_training = self.training.hear

    @property
    def store(self) -> ConversationStore | None:
        return self._store

    @property
    def needed_store(self) -> ConversationStore:
        """Raises ConfigError where nothing is kept."""
        if self._store is None:
            why = self._no_store or "conversations are not kept in this chat; start it without --no-log"
            raise ConfigError(why)
        return self._store

    @property
    def not_kept(self) -> str | None:
        """Why what is said is not on disk although it should be; None where all is well."""
        return self._no_store or self._conversation.keeper.failure

    @property
    def conversation_id(self) -> str:
        return self._conversation.id

    @property
    def turns(self) -> list[Turn]:
        """The path from the first turn to the last, oldest first."""
        return self._conversation.turns

    @property
    def answers(self) -> list[Turn]:
        """Every answer to the last prompt, those of a comparison in its order; one of them is `turns[-1]`."""
        return self._conversation.answers

    @property
    def pin(self) -> str | None:
        """The mix that answers in this branch whatever is chosen, if one is pinned to it."""
        return self._conversation.pin

    def pin_at(self, turn: Turn) -> str | None:
        """The mix that is pinned where `turn` stands."""
        return self._conversation.pin_on(self._conversation.path_to(turn))

    def place(self, turn: Turn) -> tuple[int, int]:
        """Where `turn` stands among its siblings: its number from 1, and how many they are."""
        beside = [one.id for one in self._conversation.siblings(turn)]
        return (beside.index(turn.id) + 1 if turn.id in beside else 1), len(beside)

    def details(self, turn: Turn) -> Report:
        """All that is known of a turn."""
        ids = [one.id for one in self._conversation.path_to(turn)]
        return details_of(turn, len(ids), self.place(turn))

    def prompt_of(self, turn: Turn) -> Turn:
        """`turn`, or the prompt that it answers."""
        return self._conversation.prompt_of(turn)

    @property
    def engine(self) -> EngineInfo | None:
        """The running engine, or None while there is none."""
        return self._connection.engine

    @property
    def state(self) -> EngineState:
        """Whether an engine loads, runs, is busy, has failed or ended."""
        return self._connection.state

    @property
    def client(self) -> "EngineClient":  # raises EngineGone when no engine runs
        return self._connection.client

    @property
    def adapters(self) -> list[AdapterInfo]:
        """What the engine has loaded."""
        return self._connection.adapters

    def available_adapters(self) -> list[AdapterOnDisk]:
        """The adapters in `settings.adapter_folders`; of two with one name, the first folder's."""
        return available_adapters(self.settings.adapter_folders)

    @property
    def warming(self) -> str | None:
        """The mix under which the history is being computed now, while nobody wants the engine."""
        return self._asking.warming

    @property
    def warmed(self) -> str | None:
        """The last mix for which that came to its end: neither failed nor gave way."""
        return self._asking.warmed

    @property
    def remarks(self) -> list[Remark]:
        """What is odd about the adapters of the mix, such as that they were trained on another base."""
        changed, names = self._connection.changed(), parse_mix(self.mix).names
        return [remark for info in self.adapters if info.name in names for remark in remarks_on(info, changed)]

    def _changed(self) -> None:
        self._watcher()
