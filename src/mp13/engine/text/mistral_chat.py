"""Messages to token ids where mistral-common speaks for the model: its code stands in place of a chat template.

It tokenizes every answer alone, between special tokens, so that one can be exchanged for the ids it was made of.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from mp13.engine.models.mistral_tokenizer import MistralTokenizer


@dataclass(frozen=True)
class Row:
    """A message; `answer` are the ids of an answer without its end token, () where they are not known."""

    role: str
    content: str
    answer: tuple[int, ...] = ()


def mistral_token_ids(tokenizer: MistralTokenizer, rows: Sequence[Row], mark: str, *, is_past: bool) -> list[int]:
    """The prompt for the next answer to `rows`; of a past that ends in an answer, what a next turn will be put behind.

    Args:
        mark: a character that occurs nowhere in `rows`.

    Raises:
        ConfigError: mistral-common refuses the conversation.
    """
    asked = [*rows, Row("user", mark)] if is_past else rows  # it only takes what asks for an answer
    marks = {i: f"{mark}{i}{mark}" for i, row in enumerate(rows) if row.role == "assistant"}
    ids = _encode_chat(tokenizer, [Row(row.role, marks.get(i, row.content)) for i, row in enumerate(asked)])
    end = 0
    for i, text in marks.items():
        marked = tokenizer(text, add_special_tokens=False)["input_ids"]
        at = _find(ids, marked, end)
        if at is None:  # it joins neighbours of one role, and with them their tokens
            ids = _encode_chat(tokenizer, asked)
            return ids[: len(ids) - ids[::-1].index(tokenizer.eos_token_id)] if is_past else ids
        answer = _answer_ids(tokenizer, rows[i], mark)
        ids[at : at + len(marked)] = answer
        end = at + len(answer)
    return ids[: end + 1] if is_past else ids  # with the token behind the last answer


def _answer_ids(tokenizer: MistralTokenizer, row: Row, mark: str) -> Sequence[int]:
    """The answer's own ids if mistral-common would show it as it is, else the ids of what it shows."""
    if not row.content:
        return row.answer
    ids = _encode_chat(tokenizer, [Row("user", mark), Row("assistant", row.content), Row("user", mark)])
    begin = _find(ids, tokenizer(mark, add_special_tokens=False)["input_ids"], 0) or 0
    end = ids.index(tokenizer.eos_token_id, begin)
    shown = ids[ids.index(tokenizer.end_of_question_id, begin) + 1 : end]
    return row.answer if row.answer and tokenizer.decode(shown) == row.content else shown


def _encode_chat(tokenizer: MistralTokenizer, rows: Sequence[Row]) -> list[int]:
    return tokenizer.encode_chat([{"role": row.role, "content": row.content} for row in rows])


def _find(ids: list[int], part: list[int], start: int) -> int | None:
    return next((at for at in range(start, len(ids)) if ids[at : at + len(part)] == part), None)
