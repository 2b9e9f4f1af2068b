"""Long pastes: in the prompt each is a token such as `[paste #1 · 240 lines]`, which is opened or sent as its text."""

LONG_LINES = 12
LONG_CHARACTERS = 1500


class Pastes:
    """Those of one chat. Their numbers are never used again, so that a prompt brought back means what it meant."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}  # by token

    def fold(self, text: str) -> str:
        """What to put into the prompt for the pasted `text`: itself where it is short, else a token."""
        lines = text.removesuffix("\n").count("\n") + 1
        if lines <= LONG_LINES and len(text) <= LONG_CHARACTERS:
            return text
        size = f"{lines:,} lines" if lines > LONG_LINES else f"{len(text):,} characters"
        token = f"[paste #{len(self._texts) + 1} · {size}]"
        self._texts[token] = text
        return token

    def expand(self, text: str) -> str:
        """`text` with every paste in it; what was pasted is not looked through again."""
        pieces: list[str] = []
        while (found := self._first(text)) is not None:
            at, token = found
            pieces += [text[:at], self._texts[token]]
            text = text[at + len(token) :]
        return "".join([*pieces, text])

    def refold(self, text: str) -> str:
        """`text` with tokens where it still has a paste's whole text."""
        for token, paste in self._texts.items():
            text = text.replace(paste, token, 1)
        return text

    def at(self, line: str, column: int) -> tuple[int, int, str] | None:
        """Begin, end and text of the paste whose token in `line` the cursor is at, or behind."""
        for token, paste in self._texts.items():
            begin = line.find(token)
            while begin >= 0:
                if begin <= column <= begin + len(token):
                    return begin, begin + len(token), paste
                begin = line.find(token, begin + 1)
        return None

    def _first(self, text: str) -> tuple[int, str] | None:
        return min(((text.find(token), token) for token in self._texts if token in text), default=None)
