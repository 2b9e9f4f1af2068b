"""How well mixes know the answers of a data set: has each judged under all mixes at once, and adds up.

Of a conversation every answer is judged that would be learned. How data is read is library/data's, the engine behind
the client the caller's.
"""

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from mp13.chat.library.stored_data import data_set
from mp13.engine.training.sample import Sample
from mp13.errors import ConfigError, ContextError
from mp13.service.schema import Message, ScoreRequest

if TYPE_CHECKING:
    from mp13.service.client import EngineClient

_IN_FLIGHT = 4  # rows; the engine packs what waits together


@dataclass(frozen=True)
class Row:
    """A line of the data set as what is to be judged: (prompt, answer)."""

    line: int
    pieces: tuple[tuple[tuple[Message, ...] | str | None, str], ...]


@dataclass(frozen=True)
class MixResult:
    """How a mix did. `wins` is, for each mix, the share of rows whose answers this one finds likelier."""

    mix: str
    perplexity: float
    token_accuracy: float  # the share of tokens that are the mix's likeliest
    mean_logprob: float  # natural, a token
    wins: tuple[float, ...]


@dataclass(frozen=True)
class Evaluation:
    rows: int
    tokens: int
    skipped: tuple[str, ...]  # rows that do not fit the context, a sentence each
    results: tuple[MixResult, ...]


def read_rows(source: str, limit: int | None) -> list[Row]:
    """The first `limit` samples of a data set, or all.

    Raises:
        DataError: it cannot be read, or a sample is none; the sentence names its line.
    """
    return [Row(sample.line, _pieces(sample)) for sample in islice(data_set(source).samples(), limit)]


async def evaluate(
    client: "EngineClient",
    rows: Sequence[Row],
    mixes: Sequence[str],
    progress: Callable[[str, float | None], None] = lambda stage, fraction: None,
) -> Evaluation:
    """Judge every row under every mix; their adapters are loaded.

    Raises:
        ConfigError: no row fits into the context. Else what the engine raises.
    """
    judged: list[list[_Sum]] = []  # by row, by mix
    skipped: list[str] = []
    room = asyncio.Semaphore(_IN_FLIGHT)

    async def judge(row: Row) -> None:
        async with room:
            try:
                judged.append(await _judge(client, row, mixes))
            except ContextError as error:
                skipped.append(f"line {row.line} is left out: {error}")
            progress("evaluating", (len(judged) + len(skipped)) / len(rows))

    tasks = [asyncio.create_task(judge(row)) for row in rows]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
    if not judged:
        raise ConfigError(f"no row can be judged; {skipped[0]}")
    results = tuple(_result(mix, place, judged) for place, mix in enumerate(mixes))
    return Evaluation(len(judged), sum(sums[0].tokens for sums in judged), tuple(skipped), results)


@dataclass
class _Sum:
    """Of one row under one mix."""

    tokens: int = 0
    logprob: float = 0.0
    hits: int = 0

    @property
    def mean(self) -> float:
        return self.logprob / self.tokens


async def _judge(client: "EngineClient", row: Row, mixes: Sequence[str]) -> list[_Sum]:
    sums = [_Sum() for _ in mixes]
    for prompt, answer in row.pieces:
        report = await client.score(ScoreRequest(prompt=prompt, answer=answer, mixes=tuple(mixes)))
        for total, scores in zip(sums, report.scores, strict=True):
            total.tokens += len(scores)
            total.logprob += sum(score.logprob for score in scores)
            total.hits += sum(score.best_id == score.token_id for score in scores)
    if not sums[0].tokens:
        raise ConfigError(f"line {row.line} has no token that follows another; give longer texts")
    return sums


def _result(mix: str, place: int, judged: Sequence[Sequence[_Sum]]) -> MixResult:
    tokens = sum(sums[place].tokens for sums in judged)
    mean = sum(sums[place].logprob for sums in judged) / tokens
    return MixResult(
        mix=mix,
        perplexity=math.exp(-mean),
        token_accuracy=sum(sums[place].hits for sums in judged) / tokens,
        mean_logprob=mean,
        wins=tuple(
            sum(sums[place].mean > sums[other].mean for sums in judged) / len(judged) for other in range(len(judged[0]))
        ),
    )


def _pieces(sample: Sample) -> tuple[tuple[tuple[Message, ...] | str | None, str], ...]:
    if not sample.messages:
        return ((sample.prompt or None, sample.text),)
    said = tuple(Message(role=message.role, content=message.content) for message in sample.messages)
    answers = [n for n, m in enumerate(sample.messages) if m.role == "assistant" and m.is_learned]
    return tuple((said[:n], said[n].content) for n in answers)
