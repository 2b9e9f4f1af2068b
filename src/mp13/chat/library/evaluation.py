"""How well mixes know the answers of a data set: reads its rows, has each judged under all mixes at once, adds up.

A row is {"messages": …}, of which every answer of the assistant is judged, {"prompt": …, "completion": …} or
{"text": …}. The engine behind the client is the caller's.
"""

import asyncio
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

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


def read_rows(path: Path, limit: int | None) -> list[Row]:
    """The first `limit` rows, or all.

    Raises:
        ConfigError: the file cannot be read or has none, or a line is no row; the sentence names it.
    """
    rows: list[Row] = []
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if limit is not None and len(rows) == limit:
                    break
                if line.strip():
                    rows.append(Row(number, _pieces(line, f"{path}:{number}")))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the data {str(path)!r} cannot be read ({error}); give a JSONL file") from None
    if not rows:
        raise ConfigError(f"{path} has no rows; give one JSON object a line")
    return rows


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


def _pieces(line: str, where: str) -> tuple[tuple[tuple[Message, ...] | str | None, str], ...]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{where} is not JSON ({error}); write one object a line") from None
    match row:
        case {"messages": list(messages)}:
            return _answers(messages, where)
        case {"prompt": str(prompt), "completion": str(completion)} if completion:
            return ((prompt, completion),)
        case {"text": str(text)} if text:
            return ((None, text),)
    raise ConfigError(
        f'{where} is no row; write {{"messages": […]}}, {{"prompt": …, "completion": …}} or {{"text": …}}'
    )


def _answers(given: list[Any], where: str) -> tuple[tuple[tuple[Message, ...], str], ...]:
    try:
        messages = tuple(Message.model_validate(message) for message in given)
    except ValidationError as error:
        detail = error.errors()[0]
        what = ".".join(map(str, detail["loc"])) or "it"
        raise ConfigError(f"{where} has a message that is none ({what}: {detail['msg']}); correct it") from None
    answers = [n for n, message in enumerate(messages) if message.role == "assistant" and message.content and n]
    if not answers:
        raise ConfigError(f"{where} has no answer of the assistant to judge; add one")
    return tuple((messages[:n], messages[n].content) for n in answers)
