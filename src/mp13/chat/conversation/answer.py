"""Between turns and the wire: what the model reads of a path, and the answer that grows from the engine's events."""

import uuid
from dataclasses import dataclass, field
from itertools import pairwise

from mp13.chat.conversation.turn import Turn
from mp13.service.schema import FinishEvent, FinishReason, Message, Metrics, Provenance, StartedEvent, TokenEvent


@dataclass
class Writing:
    """An answer as it comes in."""

    mix: str
    prompt: Turn
    created_at: float  # seconds since 1970; answers that began together are in the order of their mixes
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    given: int = 0  # tokens that were there before, of an answer that is continued
    provenance: Provenance | None = None
    end: FinishEvent | None = None
    id: str = field(default_factory=lambda: uuid.uuid4().hex)  # of the turn, drafts of it too

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
        return self._turn(
            self.end.text, self.end.adapters, self.end.token_ids, self.end.finish_reason, self.end.provenance,
            self.end.metrics,
        )  # fmt: skip

    def cut_off(self) -> Turn | None:
        """The answer as far as it came; None when nothing did."""
        if len(self.token_ids) == self.given:
            return None
        return self._turn(self.text, self.mix, self.token_ids, "abort", self.provenance)

    def _turn(
        self, text: str, mix: str, ids: list[int], reason: FinishReason, provenance: Provenance | None,
        metrics: Metrics | None = None,
    ) -> Turn:  # fmt: skip
        return Turn(
            "assistant", text, mix, self.prompt.id, None, tuple(ids), reason, provenance, metrics, self.prompt.skipped,
            id=self.id, created_at=self.created_at,
        )  # fmt: skip


def exchanges(turns: list[Turn]) -> list[tuple[Turn, Turn]]:
    """The prompts of a path with their answers. Prompts that were never answered are left out, since templates want
    user and assistant to alternate; so are answers of which no text came.
    """
    pairs = pairwise(turns)
    return [(p, a) for p, a in pairs if p.role == "user" and a.role == "assistant" and a.text]


def history_of(turns: list[Turn], system: str | None, skipped: int) -> tuple[Message, ...]:
    """What the model reads before a next prompt under this system prompt, the oldest `skipped` exchanges left out."""
    messages = [Message(role="system", content=system)] if system else []
    for prompt, answer in exchanges(turns)[skipped:]:
        messages.append(Message(role="user", content=prompt.text))
        messages.append(Message(role="assistant", content=answer.text, token_ids=answer.token_ids))
    return tuple(messages)


def messages_of(turns: list[Turn], continued: Turn | None = None) -> tuple[Message, ...]:
    """What the model reads of a path that ends with a prompt, and the answer to it that it is to continue."""
    prompt = turns[-1]
    history = (*history_of(turns, prompt.system, prompt.skipped), Message(role="user", content=prompt.text))
    if continued is None:
        return history
    return (*history, Message(role="assistant", content=continued.text, token_ids=continued.token_ids))
