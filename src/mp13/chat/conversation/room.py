"""How much of a conversation has room in the model's context. Plain data; counting is asking.py's."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Room:
    """`prompt_tokens` is all that was to be read; without the oldest `dropped` exchanges it is `kept_tokens`."""

    prompt_tokens: int
    kept_tokens: int
    dropped: int
    context_limit: int

    @property
    def is_enough(self) -> bool:
        """Whether leaving out the oldest exchanges helps."""
        return self.dropped > 0 and self.kept_tokens < self.context_limit


def oldest_exchanges(count: int) -> str:
    """What is left out, in words."""
    return "the oldest exchange" if count == 1 else f"the oldest {count} exchanges"
