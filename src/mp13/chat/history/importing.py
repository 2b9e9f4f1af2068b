"""Conversations from elsewhere: JSON of our own (archive.py), and OpenAI's messages, ShareGPT and what else
library/data reads. Everything in a file is stored, or nothing."""

import json
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from mp13.chat.conversation.store import ConversationStore, WholeConversation
from mp13.chat.conversation.turn import Turn
from mp13.chat.history.archive import FORMAT, from_json
from mp13.engine.training.sample import Sample
from mp13.errors import ConfigError
from mp13.library.data.json_file import Record
from mp13.library.data.problem import DataError, Problem
from mp13.library.data.reading import DataSet
from mp13.library.paths import given_path
from mp13.mix import BASE

_MOST_BYTES = 1 << 30  # of a file that is read as a whole


@dataclass(frozen=True)
class Imported:
    """The ids that were stored, and how many conversations were there already and are as they were."""

    ids: tuple[str, ...]
    known: int = 0

    def __str__(self) -> str:
        count = len(self.ids)
        there = f"; {self.known:,} were here already (--copy adds copies of them)" if self.known else ""
        return f"{count:,} {'conversation' if count == 1 else 'conversations'} imported{there}"


def import_file(path: Path, store: ConversationStore, *, copies: bool = False) -> Imported:
    """Store what is in a file. Of conversations that are there already nothing is changed; with `copies`, they are
    stored once more, with other ids.

    Raises:
        ConfigError: the file cannot be read, or something in it; a DataError says of each place what is wrong. Nothing
            was stored then.
    """
    found = read_conversations(path)
    known = {one.id for one in found} & set(store.known_ids())
    new = [one for one in found if one.id not in known]
    if copies:
        new += [copied(one) for one in found if one.id in known]
    taken = {turn.id for one in new for turn in one.turns} & store.turn_ids()
    new = [copied(one) if any(turn.id in taken for turn in one.turns) else one for one in new]
    store.put(new)
    return Imported(tuple(one.id for one in new), 0 if copies else len(known))


def read_conversations(path: Path) -> list[WholeConversation]:
    source, path = str(path), given_path(path)
    try:
        size = path.stat().st_size
        data = path.read_bytes() if size <= _MOST_BYTES else b""
    except OSError as error:
        raise ConfigError(f"{source} cannot be read ({error.strerror or error}); give a file") from None
    if FORMAT.encode() in data[:200]:
        return from_json(data, source)
    whole = _record_of(data)
    data_set = DataSet(source) if whole is None else DataSet(source, samples=partial(_one, whole))
    began = time.time()
    return [_conversation(sample, source, began + n * 1e-3) for n, sample in enumerate(data_set.samples())]


def copied(one: WholeConversation) -> WholeConversation:
    """The same under other ids."""
    ids = {turn.id: uuid.uuid4().hex for turn in one.turns}
    turns = [replace(turn, id=ids[turn.id], parent_id=ids.get(turn.parent_id or "")) for turn in one.turns]
    pins = {ids[id]: mix for id, mix in one.pins.items()}
    return replace(one, id=uuid.uuid4().hex, head=ids.get(one.head or ""), pins=pins, turns=turns)


def _record_of(data: bytes) -> dict[str, Any] | None:
    """A file that is one conversation: an object over several lines, or a bare list of messages."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return None
    if isinstance(value, list) and value and all(isinstance(row, dict) for row in value):
        if all("role" in row for row in value):
            return {"messages": value}
        return {"conversations": value} if all("from" in row for row in value) else None
    return value if isinstance(value, dict) else None


def _one(record: dict[str, Any]) -> Iterator[Sample | Record | Problem]:
    yield 1, record


def _conversation(sample: Sample, source: str, began: float) -> WholeConversation:
    system = next((message.content for message in sample.messages if message.role == "system"), None)
    said = [(message.role, message.content) for message in sample.messages if message.role != "system"]
    if sample.prompt:
        said = [("user", sample.prompt), ("assistant", sample.text)]
    if not said:
        raise DataError([Problem(source, sample.line, "is a text, and no conversation", 'write {"messages": […]}')])
    turns: list[Turn] = []
    for number, (role, text) in enumerate(said):
        parent, at = turns[-1].id if turns else None, began + number * 1e-6
        if role == "user":
            turns.append(Turn("user", text, BASE, parent, system or None, created_at=at))
        else:
            turns.append(Turn("assistant", text, BASE, parent, finish_reason="stop", created_at=at))
    return WholeConversation(uuid.uuid4().hex, began, None, None, turns[-1].id, {}, turns)
