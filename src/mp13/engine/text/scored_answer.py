"""Judged tokens as people read them: what each of them shows, and what each mix would have said in its place."""

from collections.abc import Sequence
from typing import Any

from mp13.engine.request import ScoredAnswer, TokenScore
from mp13.engine.text.detokenizer import token_texts

_CONTEXT = 4  # tokens before another one's text: enough to complete a character


def scored_answer(
    tokenizer: Any, token_ids: Sequence[int], start: int, scores: tuple[tuple[TokenScore, ...], ...]
) -> ScoredAnswer:
    """`scores` judge `token_ids` from `start` on, one tuple a mix."""
    best_texts: dict[tuple[int, int], str] = {}  # of (place, token id)
    for place in ((start + i, score.best_id) for per_mix in scores for i, score in enumerate(per_mix)):
        if place not in best_texts:
            best_texts[place] = _text_behind(tokenizer, token_ids[max(0, place[0] - _CONTEXT) : place[0]], place[1])
    return ScoredAnswer(
        token_ids=tuple(token_ids[start:]),
        texts=token_texts(tokenizer, token_ids[start:]),
        scores=scores,
        best_texts=tuple(tuple(best_texts[start + i, s.best_id] for i, s in enumerate(per_mix)) for per_mix in scores),
    )


def _text_behind(tokenizer: Any, before: Sequence[int], token_id: int) -> str:
    """What the token adds to the text; a special token shows its name."""
    return _decode(tokenizer, [*before, token_id])[len(_decode(tokenizer, before)) :]


def _decode(tokenizer: Any, ids: Sequence[int]) -> str:
    text: str = tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return text
