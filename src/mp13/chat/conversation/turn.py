"""A turn of a conversation and the events a session tells its screen. Plain data."""

import time
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from mp13.errors import Mp13Error
from mp13.service.schema import EngineInfo, FinishReason, Metrics, Provenance

if TYPE_CHECKING:
    from mp13.chat.conversation.ask import Ask
    from mp13.chat.conversation.diff import Diff
    from mp13.chat.conversation.report import Report

Role = Literal["user", "assistant"]


@dataclass(frozen=True)
class Turn:
    """One message. A user turn keeps the system prompt it was asked under; an answer keeps what produced it.

    An answer cut off by its reader or by the engine's death has `finish_reason` "abort", the text and ids that came,
    its provenance if that had come, and no metrics, which the engine sends with the end. `skipped` is how many of the
    oldest exchanges the model did not read, because its context had no room for them.
    """

    role: Role
    text: str
    mix: str  # canonical: the mix asked for (user) or that answered (assistant)
    parent_id: str | None = None
    system: str | None = None
    token_ids: tuple[int, ...] | None = None
    finish_reason: FinishReason | None = None
    provenance: Provenance | None = None
    metrics: Metrics | None = None
    skipped: int = 0
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    created_at: float = field(default_factory=time.time)  # seconds since 1970


@dataclass(frozen=True)
class LoadProgress:
    """The starter is being installed or the engine is loading. `fraction` is 0 to 1, None where no length is known."""

    stage: str
    fraction: float | None = None


@dataclass(frozen=True)
class LoadNote:
    """Something was done before the engine loads that the reader should know."""

    text: str


@dataclass(frozen=True)
class EngineReady:
    info: EngineInfo


@dataclass(frozen=True)
class EngineFailed:
    """The engine did not come up. The session lives on: `ask` and `start` try again.

    `falls_back`: it was to take the place of one that worked, which the settings go back to.
    """

    error: Mp13Error
    falls_back: bool = False

    @property
    def message(self) -> str:
        again = "; the settings are as before, and the engine that worked starts again" if self.falls_back else ""
        return f"{self.error}{again}"


@dataclass(frozen=True)
class TextDelta:
    """More of the running answer. Raw model text: pass it through `chat.text.printable` before drawing."""

    text: str
    index: int = 0  # the place of its mix among those compared


@dataclass(frozen=True)
class AnswerDone:
    """The answer is whole and stored."""

    turn: Turn
    index: int = 0


@dataclass(frozen=True)
class Asked:
    """The path ends with `prompt` now, and `mixes` begin to answer it. `is_next` says that the prompt is new and stands
    under what was the end of the path; otherwise the path is another one and has to be drawn again."""

    prompt: Turn
    mixes: tuple[str, ...]
    is_next: bool


@dataclass(frozen=True)
class Keeping:
    """From here on what is said is not kept on disk, for the reason `problem`; None: it is again, and so is all that
    was said meanwhile. The chat goes on either way."""

    problem: str | None


SessionEvent = LoadProgress | LoadNote | EngineReady | EngineFailed | Asked | TextDelta | AnswerDone | Keeping


@dataclass(frozen=True)
class CommandResult:
    """What a slash command did.

    `message` is for the reader; `turns_changed` says that the session's turns are others now (/new, /resume) and have
    to be drawn again; `mix_changed` that another mix may answer; `engine_changed` that another engine is to be started;
    `quit` that the chat is to end. An `ask` is for the caller to have answered, a `diff` or `report` for it to draw,
    and `copied` for it to put into the clipboard.
    """

    message: str
    quit: bool = False
    turns_changed: bool = False
    mix_changed: bool = False
    engine_changed: bool = False
    ask: "Ask | None" = None
    diff: "Diff | None" = None
    copied: str | None = None
    report: "Report | None" = None
