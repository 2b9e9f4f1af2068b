"""Finding turns by what they say. Words go through the full-text index; what that cannot take apart (Chinese, Japanese,
Thai, emoji, signs) or does not find is looked for in the text itself."""

import math
import re
from contextlib import closing
from dataclasses import dataclass

from mp13.chat.conversation.store_file import StoreFile

TITLE = """coalesce(title, (SELECT text FROM turns f WHERE f.conversation_id = c.id ORDER BY seq LIMIT 1))"""
_BEGIN, _END = "\x02", "\x03"
_BEFORE, _AFTER = 16, 64  # characters of a snippet around its first find
# Scripts that put no space between words: the index has a whole clause of them as one word.
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u1100-\u11ff\u2e80-\u9fff\ua960-\ua97f\uac00-\ud7ff\uf900-\ufaff"
    "\uff66-\uff9f\U00020000-\U0003ffff]"
)
_SHOWN = """FROM turns t JOIN conversations c ON c.id = t.conversation_id
    WHERE t.deleted_at IS NULL AND c.deleted_at IS NULL"""


@dataclass(frozen=True)
class Found:
    """A turn that was searched for. In `snippet`, what was found stands between \\x02 and \\x03."""

    conversation_id: str
    title: str
    turn_id: str
    role: str
    snippet: str


class StoreSearch(StoreFile):
    """What is looked for is text, whatever characters it has; upper and lower case are one."""

    def search(self, text: str, limit: int = 20, *, present: str = "", copies: bool = False) -> list[Found]:
        """The turns of all conversations that contain every word of `text` or words that begin so, best first; then
        those whose title contains `text`.

        A turn that was copied, as by a fork, is found once: in the conversation `present`, or else where it was first.
        With `copies`, it is found in each."""
        words = text.split()
        if not words:
            return []
        found = [] if any(_is_no_word(word) for word in words) else self._indexed(words, limit, present, copies)
        found = found or self._scanned(words, limit, present, copies)
        titled = f"""SELECT c.id, {TITLE}, c.head, 'user', title FROM conversations c
            WHERE instr(lower(title), lower(?)) AND deleted_at IS NULL AND head IS NOT NULL LIMIT ?"""
        return (found + [Found(*row) for row in self._rows(titled, text.strip(), limit)])[:limit]

    def _indexed(self, words: list[str], limit: int, present: str, copies: bool) -> list[Found]:
        wanted = " ".join('"' + word.replace('"', '""') + '"*' for word in words)
        query = f"""
            SELECT t.created_at, t.text, c.id, {TITLE}, t.id, t.role,
                snippet(turns_text, 0, char(2), char(3), '…', 12)
            FROM turns_text JOIN turns t ON t.seq = turns_text.rowid JOIN conversations c ON c.id = t.conversation_id
            WHERE turns_text MATCH ? AND t.deleted_at IS NULL AND c.deleted_at IS NULL ORDER BY rank"""
        found: dict[object, Found] = {}
        with self._explained(), closing(self._db.execute(query, (wanted,))) as rows:
            for created_at, text, *row in rows:  # copies are equally good, so that they come one after the other
                one = Found(*row)
                same = one.turn_id if copies else (one.role, created_at, text)
                if same not in found and len(found) == limit:
                    break
                if same not in found or one.conversation_id == present:
                    found[same] = one
        return list(found.values())

    def _scanned(self, words: list[str], limit: int, present: str, copies: bool) -> list[Found]:
        """The turns that contain all words anywhere: those first that say them often for their length, then the new."""
        folded = [word.casefold() for word in words]
        ranked: dict[object, tuple[float, int]] = {}
        rows = self._rows(f"SELECT t.seq, c.id, t.role, t.created_at, t.text {_SHOWN} ORDER BY t.seq")
        for seq, id, role, created_at, text in rows:
            whole = text.casefold()
            if all(word in whole for word in folded):
                often = sum(math.log1p(whole.count(word)) for word in folded)
                same = seq if copies else (role, created_at, text)
                if same not in ranked or id == present:
                    ranked[same] = (often / math.sqrt(1 + len(whole)), seq)
        found = []
        for _, seq in sorted(ranked.values(), reverse=True)[:limit]:
            ((id, title, turn_id, role, text),) = self._rows(
                f"SELECT c.id, {TITLE}, t.id, t.role, t.text {_SHOWN} AND t.seq = ?", seq
            )
            found.append(Found(id, title, turn_id, role, snippet(text, folded)))
        return found


def _is_no_word(word: str) -> bool:
    """Whether the index has it only as a part of something, or not at all."""
    return bool(_UNSPACED.search(word)) or not any(character.isalnum() for character in word)


def snippet(text: str, folded: list[str]) -> str:
    """`text` around the first of the (casefolded) words, each of them marked."""
    places = [place for place, character in enumerate(text) for _ in character.casefold()]
    whole = text.casefold()
    spans = [
        (places[match.start()], places[match.end() - 1] + 1)
        for match in re.finditer("|".join(map(re.escape, sorted(folded, key=len, reverse=True))), whole)
    ]
    if not spans:
        return text[: _BEFORE + _AFTER]
    begin = max(0, spans[0][0] - _BEFORE)
    end = min(len(text), begin + _BEFORE + _AFTER)
    parts, at = ["…" if begin else ""], begin
    for start, stop in spans:
        if stop <= end and start >= at:
            parts += [text[at:start], _BEGIN, text[start:stop], _END]
            at = stop
    return "".join([*parts, text[at:end], "…" if end < len(text) else ""])
