"""What may reach a terminal. Every sink that draws model text, names or logs passes it through `printable`. And what a
person may write for a number."""

import re

_ESCAPES = re.compile(
    r"\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)"  # OSC: titles, links, clipboard
    r"|\x1b[PX^_][^\x1b]*\x1b\\"  # DCS, SOS, PM, APC
    r"|(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]?"  # CSI: colours, cursor
    r"|\x1b[ -/]*[0-~]?"
)
_CONTROLS = "\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufff9-\ufffb"  # C0, C1, lone surrogates, annotations
_BIDI = "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # they would put the text around them in another order
_UNSEEN = "\u00ad\u034f\u115f\u1160\u17b4\u17b5\u180e\u200b\u2028\u2029\u2060-\u2065\u206a-\u206f\u3164\ufeff\uffa0"
_TAGS = "\U000e0000-\U000e0fff"  # ASCII that nobody sees; U+E0100 on choose the form of a character in the same way
_FLAG = "\U0001f3f4[\U000e0030-\U000e0039\U000e0061-\U000e007a]{3,6}\U000e007f"  # of a country's part: tags with a use
_UNWANTED = re.compile(f"({_FLAG})|[{_CONTROLS}{_BIDI}{_UNSEEN}{_TAGS}]")


def printable(text: str) -> str:
    """`text` without what acts on a terminal or hides in it: escapes, control characters (but newline and tab), bidi
    controls, lone surrogates, and characters that nobody sees, other than those that join emoji and letters."""
    if text.isascii() and text.isprintable():
        return text
    return _UNWANTED.sub(r"\1", _ESCAPES.sub("", text))


def one_line(text: str) -> str:
    """`printable` text in one line: names, titles and notes come from files and models."""
    return " ".join(printable(text).split())


def utf8(text: str) -> str:
    """`text` with lone surrogates (bytes of the command line that were no UTF-8) replaced, so that it can be stored."""
    return text.encode("utf-8", "replace").decode()


def number_in(text: str, least: int, most: int) -> int | None:
    """The number from `least` to `most` that `text` is; None where it is none such."""
    is_number = text.isascii() and text.isdigit() and len(text) < 10  # int() refuses thousands of digits
    return int(text) if is_number and least <= int(text) <= most else None
