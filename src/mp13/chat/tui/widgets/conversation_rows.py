"""How a conversation looks in the list: its title, and what there is to say of it under that."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from textual.content import Content

from mp13.chat.text import one_line, printable
from mp13.chat.tui.widgets.rows import FAINT, MUTED, spread

if TYPE_CHECKING:
    from mp13.chat.conversation.store import ConversationInfo
    from mp13.chat.conversation.store_search import Found

_UNTITLED = "untitled"
_BEFORE = 10  # characters before what was found: a narrow panel has to show it


def new_row(is_present: bool, key: str, width: int) -> Content:
    """The way to a new conversation, or the sign that it is one which nobody has said anything in."""
    text = "New conversation" if width >= len("+ New conversation ") + len(key) else "New"
    shown = (f"● {text}", "bold") if is_present else (f"+ {text}", MUTED)
    return spread(Content.assemble(shown), Content.styled(key, FAINT), width)


def stored_row(info: ConversationInfo, is_present: bool, width: int) -> Content:
    from mp13.chat.library.shown import age

    turns = f"{info.turns} turn{'' if info.turns == 1 else 's'}"
    below = Content.styled(f"{turns} · {age(info.updated_at)}", MUTED)
    return _two_lines(info.title, below, is_present, width)


def found_row(found: Found, is_present: bool, width: int) -> Content:
    return _two_lines(found.title, _snippet(found.snippet), is_present, width)


def quoted(title: str) -> str:
    """A title, shortened, for a sentence."""
    shown = Content(one_line(title) or _UNTITLED)
    return f"“{shown.truncate(40, ellipsis=True).plain}”"


def _snippet(text: str) -> Content:
    """What was found stands out of what is around it."""
    before, *found = re.sub(r"\s+", " ", text).split("\x02")
    if found and len(before) > _BEFORE:
        before = f"…{before[-_BEFORE:]}"
    pieces = [(before, MUTED)]
    for piece in found:
        hit, _, rest = piece.partition("\x03")
        pieces += [(hit, "bold"), (rest, MUTED)]
    return Content.assemble(*((printable(piece), style) for piece, style in pieces))


def _two_lines(title: str, below: Content, is_present: bool, width: int) -> Content:
    mark = ("● ", "$accent") if is_present else ("  ", "")
    first = Content.assemble(mark, (one_line(title) or _UNTITLED, "bold" if is_present else ""))
    return Content("\n").join(line.truncate(width, ellipsis=True) for line in (first, Content.assemble("  ", below)))
