"""Conversations of the store as training data: `store:ID`, the beginning of one, or `store:all`."""

import sys
from collections.abc import Collection, Iterator, Sequence
from itertools import groupby, pairwise
from typing import TYPE_CHECKING

from mp13.engine.training.sample import Message, Sample
from mp13.errors import ConfigError
from mp13.library.data.problem import DataError, Problem
from mp13.library.data.reading import DataSet

if TYPE_CHECKING:
    from mp13.chat.conversation.turn import Turn

STORE = "store:"
SOURCES = "A .jsonl, .json, .csv or .parquet file, org/name of the Hub, store:all or store:ID."  # for help texts
_ALL = "all"
_SHOWN = 8  # characters of an id


def data_set(source: str, format: str | None = None) -> DataSet:
    """What a command line calls `source`: conversations of the store, a file, or a data set of the Hub.

    Raises:
        ConfigError: the format is no name of one, or there is none to choose.
    """
    if not source.startswith(STORE):
        return DataSet(source, format)
    if format is not None:
        raise ConfigError(f"{source} has no formats; leave --format out")
    return DataSet(source, samples=lambda: _stored(source))


def _stored(source: str) -> Iterator[Sample]:
    from mp13.chat.conversation.store import ConversationStore  # whose imports take a while

    wanted = source.removeprefix(STORE)
    with ConversationStore() as store:
        ids = [info.id for info in store.conversations(limit=sys.maxsize)]
        if wanted != _ALL:
            ids = [id for id in ids if wanted and id.startswith(wanted)]
            if len(ids) != 1:
                what = f"{len(ids) or 'no'} conversations begin so"
                raise DataError([Problem(source, None, what, "give the beginning of one id, or store:all")])
        for id in ids:
            yield from samples_of(store.turns(id), f"{STORE}{id[:_SHOWN]}")


def samples_of(turns: Sequence["Turn"], source: str, chosen: Collection[int] | None = None) -> Iterator[Sample]:
    """A conversation's path as samples: one for each system prompt that it was led under, which holds all that was said
    until then and learns what was answered under that prompt. `line` is the number of the last turn.

    Prompts without an answer are left out, and answers that were cut off are not learned; nor are those which are not
    among the `chosen` turns, by their numbers from 1.
    """
    answered = [
        (number, asked, answer)
        for number, (asked, answer) in enumerate(pairwise(turns), start=2)
        if asked.role == "user" and answer.role == "assistant" and asked.text.strip() and answer.text.strip()
    ]
    before: list[Message] = []
    for system, exchanges in groupby(answered, key=lambda exchange: exchange[1].system):
        said: list[Message] = []
        last = 0
        for number, asked, answer in exchanges:
            is_whole = answer.finish_reason not in ("abort", "length") and (chosen is None or number in chosen)
            said += [Message("user", asked.text), Message("assistant", answer.text, is_whole)]
            last = number if is_whole else last
        if last:
            opening = [Message("system", system)] if system else []
            yield Sample(source, last, tuple(opening + before + _until_learned(said)))
        before += [Message(message.role, message.content, message.role != "assistant") for message in said]


def _until_learned(messages: list[Message]) -> list[Message]:
    """Without what comes after the last answer that is learned."""
    learned = [i for i, message in enumerate(messages) if message.role == "assistant" and message.is_learned]
    return messages[: learned[-1] + 1]
