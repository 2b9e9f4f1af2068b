"""Conversations for elsewhere: Markdown for people, JSON of our own for keeping, JSONL for training."""

import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Literal

from mp13.chat.conversation.badge import badge
from mp13.chat.conversation.store import WholeConversation
from mp13.chat.conversation.turn import Turn
from mp13.chat.history.archive import to_json
from mp13.chat.library.shown import when
from mp13.chat.library.stored_data import samples_of
from mp13.chat.text import one_line
from mp13.engine.training.sample import Sample
from mp13.errors import ConfigError
from mp13.library.data.writing import write_messages
from mp13.library.paths import given_path
from mp13.library.whole_file import whole_file

ExportFormat = Literal["md", "json", "jsonl"]
FORMATS: dict[str, ExportFormat] = {"md": "md", "markdown": "md", "json": "json", "jsonl": "jsonl"}
_SHOWN = 8  # characters of an id


def format_of(name: str | None, out: Path | None) -> ExportFormat:
    """The format that is named, else that of the file's name, else Markdown. Raises ConfigError for no name of one."""
    wanted = name or (out.suffix[1:].lower() if out is not None and out.suffix else "md")
    if wanted not in FORMATS:
        whose = "is no format" if name else f"of {out} says no format"
        raise ConfigError(f"{wanted!r} {whose}; give md, json or jsonl")
    return FORMATS[wanted]


def export(
    conversations: Sequence[WholeConversation],
    out: Path,
    format: ExportFormat,
    chosen: Collection[int] | None = None,
    *,
    replace: bool = False,
) -> str:
    """Write the conversations to `out`; returns what was written, in a sentence.

    Raises:
        ConfigError: `out` is there and not to be replaced, or cannot be written; or there is nothing to write.
    """
    out = given_path(out)
    if format == "jsonl":
        count = write_messages(samples(conversations, chosen), out, replace=replace)
        return f"{count:,} {'sample' if count == 1 else 'samples'} for training in {out}"
    if chosen is not None:
        raise ConfigError("turns can be chosen for training data alone; leave them out, or write jsonl")
    write_text(out, text_of(conversations, format), replace=replace)
    count = len(conversations)
    return f"{count:,} {'conversation' if count == 1 else 'conversations'} in {out}"


def text_of(conversations: Sequence[WholeConversation], format: Literal["md", "json"], *, ascii: bool = False) -> str:
    if format == "json":
        return to_json(conversations, ascii=ascii)
    return "\n---\n\n".join(map(markdown, conversations))


def samples(conversations: Sequence[WholeConversation], chosen: Collection[int] | None = None) -> list[Sample]:
    """The paths as training data; with `chosen`, only the answers of these turns are learned, or to these prompts.

    Raises:
        ConfigError: nothing in them can be learned, or there is no such turn.
    """
    if chosen is not None:
        last = max(len(path_of(one)) for one in conversations)
        if beyond := [number for number in chosen if number > last]:
            raise ConfigError(f"there is no turn {beyond[0]}; turns have the numbers 1 to {last}")
    found: list[Sample] = []
    for one in conversations:
        path = path_of(one)
        answers = chosen
        if chosen is not None:
            answers = {number + (path[number - 1].role == "user") for number in chosen if number <= len(path)}
        found += samples_of(path, f"store:{one.id[:_SHOWN]}", answers)
    if not found:
        raise ConfigError("there is nothing to learn: no answer that came to its own end is among these turns")
    return found


def numbers(text: str) -> frozenset[int]:
    """Turns as `2,4-6`. Raises ConfigError for what is none."""
    found: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"\s*([1-9]\d{0,5})(?:\s*-\s*([1-9]\d{0,5}))?\s*", part)
        if match is None or int(match[2] or match[1]) < int(match[1]):
            raise ConfigError(f"{text!r} names no turns; write numbers as 2,4-6")
        found.update(range(int(match[1]), int(match[2] or match[1]) + 1))
    return frozenset(found)


def path_of(one: WholeConversation) -> list[Turn]:
    """From the first turn to the head."""
    known, path, id = {turn.id: turn for turn in one.turns}, list[Turn](), one.head
    while id is not None and (turn := known.get(id)) is not None:
        path.append(turn)
        id = turn.parent_id
    return path[::-1]


def title_of(one: WholeConversation) -> str:
    return one.title or (one.turns[0].text if one.turns else "")


def markdown(one: WholeConversation) -> str:
    """The path for reading, with what produced each answer; of turns that have others beside them, how many."""
    beside: dict[str | None, list[str]] = {}
    for turn in one.turns:
        beside.setdefault(turn.parent_id, []).append(turn.id)
    parts = [f"# {one_line(title_of(one))[:100]}", f"*{when(one.created_at)} · {one_line(one.id)}*"]
    system: str | None = None
    for turn in path_of(one):
        if turn.role == "user" and turn.system != system:
            system = turn.system
            parts.append("\n".join(f"> {line}" for line in f"**System:** {system or 'none'}".splitlines()))
        alike = beside[turn.parent_id]
        place = f" ‹{alike.index(turn.id) + 1}/{len(alike)}›" if len(alike) > 1 else ""
        parts.append(f"## {'You' if turn.role == 'user' else badge(turn)}{place}")
        parts.append(turn.text)
    return "\n\n".join(parts) + "\n"


def write_text(out: Path, text: str, *, replace: bool) -> None:
    """All of it or nothing, for its owner alone."""
    with whole_file(out, replace=replace) as file:
        file.write(text.encode("utf-8", "replace"))
