"""The order of a conversation that can be learned: the system first, user and assistant in turns, an answer last."""

from collections.abc import Sequence

from mp13.engine.training.sample import Message
from mp13.library.data.problem import BadRecord

_ORDER = "write [system,] user, assistant, user, assistant …"


def checked(messages: Sequence[Message]) -> tuple[Message, ...]:
    """The messages, in an order that can be learned. Raises BadRecord."""
    if not messages:
        raise BadRecord("has no messages", "write at least a user's and the assistant's")
    turns = [(i, m) for i, m in enumerate(messages, start=1)]
    if messages[0].role == "system":
        turns = turns[1:]
    for place, (i, message) in enumerate(turns):
        due = "assistant" if place % 2 else "user"
        if message.role == "system":
            raise BadRecord(f"message {i} is the system's, which may only be the first", _ORDER)
        if message.role != due:
            before = "there is nothing before it" if place == 0 else f"message {i - 1} is the {due_before(due)}'s, too"
            raise BadRecord(f"message {i} is the {message.role}'s, but {before}", _ORDER)
    if messages[-1].role != "assistant":
        raise BadRecord(f"ends with the {messages[-1].role}'s message", "end with the answer that is to be learned")
    if not any(m.is_learned for m in messages if m.role == "assistant"):
        raise BadRecord("has no answer to learn: the weight of each is 0", "give one of them weight 1")
    return tuple(messages)


def due_before(due: str) -> str:
    return "assistant" if due == "user" else "user"
