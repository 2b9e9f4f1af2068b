"""Between turns and the wire: what the model reads of a path, and the answer that grows from the engine's events."""

from dataclasses import dataclass, field
from itertools import pairwise

from mp13.chat.conversation.turn import Turn
from mp13.service.schema import FinishEvent, Message, Provenance, StartedEvent, TokenEvent


@dataclass
class Writing:
    """An answer as it comes in."""

    mix: str
    parent_id: str
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    provenance: Provenance | None = None
    end: FinishEvent | None = None

    def add(self, event: StartedEvent | TokenEvent | FinishEvent) -> str:
        """Take in `event`; returns the text that is new with it."""
        if isinstance(event, StartedEvent):
            self.provenance = event.provenance
            return ""
        if isinstance(event, TokenEvent):
            self.token_ids.append(event.token_id)
            self.text += event.text
            return event.text
        self.end = event
        return event.text[len(self.text) :]

    def whole(self) -> Turn | None:
        """The answer, if it has ended."""
        if self.end is None:
            return None
        return Turn(
            "assistant", self.end.text, self.end.adapters, self.parent_id, None, tuple(self.end.token_ids),
            self.end.finish_reason, self.end.provenance, self.end.metrics,
        )  # fmt: skip

    def cut_off(self) -> Turn | None:
        """The answer as far as it came; None when nothing did."""
        if not self.token_ids:
            return None
        return Turn(
            "assistant", self.text, self.mix, self.parent_id, None, tuple(self.token_ids), "abort", self.provenance
        )


def history_of(turns: list[Turn], system: str | None) -> tuple[Message, ...]:
    """What the model reads before a next prompt under this system prompt. Prompts that were never answered are left
    out, since templates want user and assistant to alternate; so are answers of which no text came.
    """
    messages = [Message(role="system", content=system)] if system else []
    for asked, answer in pairwise(turns):
        if asked.role == "user" and answer.role == "assistant" and answer.text:
            messages.append(Message(role="user", content=asked.text))
            messages.append(Message(role="assistant", content=answer.text, token_ids=answer.token_ids))
    return tuple(messages)


def messages_of(turns: list[Turn]) -> tuple[Message, ...]:
    """What the model reads of a path that ends with a prompt."""
    return (*history_of(turns, turns[-1].system), Message(role="user", content=turns[-1].text))
