"""What a model thinks aloud before it answers, told apart from the answer: `<think>…</think>` at the beginning.

Some templates open the block in the prompt, so that an answer has its end alone. What is stored is all of it.
"""

import re
from dataclasses import dataclass

_OPEN, _CLOSE = "<think>", "</think>"
_CLOSED_ALONE = re.compile(r"^</think>[ \t]*$", re.MULTILINE)


@dataclass(frozen=True)
class Parts:
    """`thought` is None where the model did not think aloud. `is_open`: it does so still, and has not answered yet."""

    thought: str | None
    answer: str
    is_open: bool = False


def parts_of(text: str) -> Parts:
    """`text` may still grow: what could be the beginning of a block is no answer yet."""
    begun = text.lstrip()
    if begun.startswith(_OPEN):
        thought, closed, answer = begun[len(_OPEN) :].partition(_CLOSE)
        return Parts(thought.strip(), answer.lstrip("\n"), is_open=not closed)
    if begun and _OPEN.startswith(begun):
        return Parts(None, "", is_open=True)
    if _OPEN not in text and (found := _CLOSED_ALONE.search(text)) is not None:
        return Parts(text[: found.start()].strip(), text[found.end() :].lstrip("\n"))
    return Parts(None, text)


def answer_in(text: str) -> str:
    """`text` without what the model thought; all of it where it came no further."""
    parts = parts_of(text)
    return text if parts.is_open else parts.answer
