"""What may reach a terminal. Every sink that draws model text, names or logs passes it through `printable`."""

import re

_ESCAPES = re.compile(
    r"\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)"  # OSC: titles, links, clipboard
    r"|\x1b[PX^_][^\x1b]*\x1b\\"  # DCS, SOS, PM, APC
    r"|(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]?"  # CSI: colours, cursor
    r"|\x1b[ -/]*[0-~]?"
)
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """`text` without terminal escapes, control characters (but newline and tab), bidi overrides and lone surrogates."""
    return _CONTROLS.sub("", _ESCAPES.sub("", text))


def one_line(text: str) -> str:
    """`printable` text in one line: names, titles and notes come from files and models."""
    return " ".join(printable(text).split())


def utf8(text: str) -> str:
    """`text` with lone surrogates (bytes of the command line that were no UTF-8) replaced, so that it can be stored."""
    return text.encode("utf-8", "replace").decode()
