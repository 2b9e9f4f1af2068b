"""Token ids to text, piece by piece: never half a character, and nothing that may yet turn out to be a stop string."""

from collections.abc import Iterable, Sequence
from typing import Any

_INCOMPLETE = "\ufffd"  # what a tokenizer writes for bytes that do not make a character (yet)


class Detokenizer:
    """Decodes a growing list of ids. A token's text can depend on its neighbours: a window of two pieces is decoded."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._window = 0  # where decoding begins
        self._done = 0  # ids whose text has been given out

    def add(self, token_id: int) -> str:
        """The text that became certain with this token; "" while a character is incomplete."""
        self._ids.append(token_id)
        text = self._pending()
        if text.endswith(_INCOMPLETE):
            return ""
        return self._give(text)

    def flush(self) -> str:
        """What is still held back, even if it ends in half a character."""
        return self._give(self._pending())

    def _pending(self) -> str:
        known = self._decode(self._ids[self._window : self._done])
        return self._decode(self._ids[self._window :])[len(known) :]

    def _give(self, text: str) -> str:
        if text:
            self._window, self._done = self._done, len(self._ids)
        return text

    def _decode(self, ids: list[int]) -> str:
        if not ids:
            return ""
        text: str = self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text


def whole_text(tokenizer: Any, token_ids: Iterable[int]) -> str:
    """The text of an answer of these tokens, as a `Detokenizer` gives it out."""
    detokenizer = Detokenizer(tokenizer)
    return "".join(detokenizer.add(token_id) for token_id in token_ids) + detokenizer.flush()


class StopStrings:
    """Looks for stop strings in a stream of text. Text that could be the beginning of one is held back.

    The first one to be complete counts, so that the end does not depend on how the text is cut into tokens.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""

    def add(self, text: str) -> tuple[str, bool]:
        """(text that may be shown, whether a stop string was met). The stop string and what follows it are dropped."""
        text = self._held + text
        found = [(at + len(stop), at) for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            self._held = ""
            return text[: min(found)[1]], True
        return text.removesuffix(self.go_on_behind(text)), False

    def go_on_behind(self, text: str) -> str:
        """Look for stop strings from the end of `text` on; one in it is passed over. Returns what is held back."""
        keep = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - keep :]
        return self._held

    def flush(self) -> str:
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that is a proper beginning of `stop`."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)
