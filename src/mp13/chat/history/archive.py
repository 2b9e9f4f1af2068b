"""Whole conversations as JSON of our own, from which they come back exactly. Of other programs: importing.py."""

import json
from collections.abc import Sequence
from typing import Literal, NoReturn

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

import mp13
from mp13.chat.conversation.store import WholeConversation
from mp13.chat.conversation.turn import Turn
from mp13.errors import ConfigError, MixError
from mp13.mix import parse_mix

FORMAT: Literal["mp13-history"] = "mp13-history"
_VERSION = 1
_LAST_S = 253_402_300_800  # the end of the year 9999, where the platform's dates end
_LARGEST_ID = 2**31 - 1


class _Archive(BaseModel):
    """What is in a file; `mp13` is the version that wrote it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["mp13-history"]
    version: int
    mp13: str
    conversations: list[WholeConversation]


_adapter = TypeAdapter(_Archive)


def to_json(conversations: Sequence[WholeConversation], *, ascii: bool = False) -> str:
    """Readable JSON; with `ascii`, no character of a conversation can act on a terminal."""
    archive = _Archive(format=FORMAT, version=_VERSION, mp13=mp13.__version__, conversations=list(conversations))
    return json.dumps(archive.model_dump(mode="json"), ensure_ascii=ascii, indent=1) + "\n"


def from_json(data: bytes, source: str) -> list[WholeConversation]:
    """Raises ConfigError with the place in `source` of what cannot be used."""
    try:
        archive = _adapter.validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]).lstrip(".")
        raise ConfigError(f"{source}: {place + ': ' if place else ''}{first['msg']}; nothing was imported") from None
    if archive.version != _VERSION:
        _refuse(source, f"version = {archive.version} is of a newer mp13, this one knows {_VERSION}; update mp13")
    turn_ids: set[str] = set()
    for number, one in enumerate(archive.conversations):
        _check(one, f"{source}: conversations[{number}]", turn_ids)
    ids = [one.id for one in archive.conversations]
    if twice := next((id for id in ids if ids.count(id) > 1), None):
        _refuse(source, f"the conversation {twice!r} is there twice; leave one of them out")
    return archive.conversations


def _check(one: WholeConversation, place: str, turn_ids: set[str]) -> None:
    """What the store relies on. `turn_ids` are all that were seen; they grow."""
    own: set[str] = set()
    if not one.turns or not one.id:
        _refuse(place, "has no turns or no id; leave it out")
    _check_time(one.created_at, place)
    if one.archived_at is not None:
        _check_time(one.archived_at, place, "archived_at")
    for number, turn in enumerate(one.turns):
        where = f"{place}.turns[{number}]"
        if turn.id in turn_ids or not turn.id:
            _refuse(where, f"id = {turn.id!r} is there twice, or empty; each turn has its own")
        if turn.parent_id is not None and turn.parent_id not in own:
            _refuse(where, f"parent_id = {turn.parent_id!r} is no turn before it; write parents before children")
        _check_numbers(turn, len(one.turns), where)
        _check_mix(turn.mix, where)
        own.add(turn.id)
        turn_ids.add(turn.id)
    if one.head is not None and one.head not in own:
        _refuse(place, f"head = {one.head!r} is none of its turns; name the turn where its path ends, or null")
    for id, mix in one.pins.items():
        if id not in own:
            _refuse(place, f"pins: {id!r} is none of its turns; leave it out")
        _check_mix(mix or "base", f"{place}.pins")


def _check_numbers(turn: Turn, turns: int, place: str) -> None:
    _check_time(turn.created_at, place)
    if not 0 <= turn.skipped <= turns:
        _refuse(place, f"skipped = {turn.skipped!s:.30} is no number of exchanges before it; give 0 for none")
    if wrong := [id for id in turn.token_ids or () if not 0 <= id <= _LARGEST_ID]:
        _refuse(place, f"token_ids: {wrong[0]!s:.30} is no token's id; give null where they are not known")


def _check_time(seconds: float, place: str, what: str = "created_at") -> None:
    if not 0 <= seconds < _LAST_S:
        _refuse(place, f"{what} = {seconds} is no time; give seconds since 1970")


def _check_mix(mix: str, place: str) -> None:
    try:
        parse_mix(mix)
    except MixError as error:
        _refuse(place, str(error))


def _refuse(place: str, what: str) -> NoReturn:
    raise ConfigError(f"{place}: {what}; nothing was imported")
