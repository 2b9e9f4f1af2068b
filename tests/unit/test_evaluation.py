"""Mixes on a data set: what is a row, how it adds up, what is said of a row that is none. The engine is scripted."""

import asyncio
import json
import math
from pathlib import Path

import pytest

from mp13.chat.library.evaluation import Row, evaluate, read_rows
from mp13.errors import ConfigError, ContextError
from mp13.service.schema import Message, ScoreReport, ScoreRequest, TokenScore

USER, ASSISTANT = {"role": "user", "content": "ask"}, {"role": "assistant", "content": "an answer"}


def written(tmp_path: Path, *rows: object) -> str:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), encoding="utf-8")
    return str(path)


class Judge:
    """A client that finds a token -1 under the first mix and -2 under the second, but an answer of "hard" -3 under the
    first; its tokens are words, and the first mix likes the first of them best."""

    def __init__(self) -> None:
        self.asked: list[ScoreRequest] = []
        self.running = 0
        self.most = 0

    async def score(self, request: ScoreRequest) -> ScoreReport:
        self.asked.append(request)
        self.running += 1
        self.most = max(self.most, self.running)
        await asyncio.sleep(0)
        self.running -= 1
        assert isinstance(request.answer, str)
        if request.answer == "too long":
            raise ContextError("it has 600 tokens and the context 512; shorten it")
        words = request.answer.split()
        nats = ({"hard": -3.0}.get(request.answer, -1.0), -2.0)
        scores = tuple(
            tuple(TokenScore(n, nats[m], 0 if m == 0 else -1, -0.1, 0.0) for n, _ in enumerate(words))
            for m, _ in enumerate(request.mixes)
        )
        best = tuple(tuple(words) for _ in request.mixes)
        return ScoreReport(token_ids=tuple(range(len(words))), texts=tuple(words), scores=scores, best_texts=best)


def test_every_answer_of_a_conversation_is_judged_after_all_that_came_before_it(tmp_path: Path) -> None:
    second = {"role": "assistant", "content": "second"}
    (row,) = read_rows(written(tmp_path, {"messages": [USER, ASSISTANT, USER, second]}), None)
    user, assistant = Message(role="user", content="ask"), Message(role="assistant", content="an answer")
    assert row == Row(1, (((user,), "an answer"), ((user, assistant, user), "second")))


def test_an_answer_that_would_not_be_learned_is_not_judged(tmp_path: Path) -> None:
    (row,) = read_rows(written(tmp_path, {"messages": [USER, ASSISTANT | {"weight": 0}, USER, ASSISTANT]}), None)
    assert [answer for _, answer in row.pieces] == ["an answer"]
    assert len(row.pieces[0][0] or ()) == 3


def test_prompts_with_completions_and_plain_texts_are_rows_too_and_blank_lines_are_none(tmp_path: Path) -> None:
    path = written(tmp_path, {"prompt": "Once", "completion": " upon"}, "", {"prompt": "Twice", "completion": " up"})
    assert read_rows(path, None) == [Row(1, (("Once", " upon"),)), Row(3, (("Twice", " up"),))]
    assert read_rows(path, 1) == [Row(1, (("Once", " upon"),))]
    assert read_rows(written(tmp_path, {"text": "a text", "id": 7}), None) == [Row(1, ((None, "a text"),))]


def test_a_line_that_is_no_row_is_named_by_its_number(tmp_path: Path) -> None:
    path = written(tmp_path, {"text": "fine"}, {"text": ""})
    with pytest.raises(ConfigError, match=r"rows\.jsonl:2: text is empty"):
        read_rows(path, None)
    assert len(read_rows(path, 1)) == 1


async def test_perplexity_accuracy_and_wins_add_up_over_rows() -> None:
    judge = Judge()
    rows = [Row(1, ((None, "one two three"),)), Row(2, ((None, "hard"),)), Row(3, (("p", "a b"), ("p", "c d")))]
    evaluation = await evaluate(judge, rows, ("base", "pirate"))  # type: ignore[arg-type]
    base, pirate = evaluation.results
    assert (evaluation.rows, evaluation.tokens, evaluation.skipped) == (3, 8, ())
    assert base.mean_logprob == pytest.approx((7 * -1 + -3) / 8)
    assert (base.perplexity, pirate.perplexity) == (pytest.approx(math.exp(10 / 8)), pytest.approx(math.exp(2)))
    assert (base.token_accuracy, pirate.token_accuracy) == (4 / 8, 0)
    assert (base.wins, pirate.wins) == ((0, pytest.approx(2 / 3)), (pytest.approx(1 / 3), 0))
    assert all(request.mixes == ("base", "pirate") for request in judge.asked)


async def test_several_rows_are_in_flight_but_not_all() -> None:
    judge = Judge()
    heard: list[float | None] = []
    rows = [Row(n, ((None, "a b"),)) for n in range(20)]
    await evaluate(judge, rows, ("base",), lambda stage, fraction: heard.append(fraction))  # type: ignore[arg-type]
    assert 2 <= judge.most <= 8
    assert heard == [pytest.approx(n / 20) for n in range(1, 21)]


async def test_a_row_that_does_not_fit_is_left_out_and_named() -> None:
    rows = [Row(1, ((None, "a b"),)), Row(9, ((None, "too long"),))]
    evaluation = await evaluate(Judge(), rows, ("base",))  # type: ignore[arg-type]
    assert (evaluation.rows, evaluation.skipped) == (1, ("line 9 is left out: it has 600 tokens and the context 512; "
                                                         "shorten it",))  # fmt: skip
    with pytest.raises(ConfigError, match="no row can be judged; line 9"):
        await evaluate(Judge(), rows[1:], ("base",))  # type: ignore[arg-type]
