"""The last gate before the terminal: what a field or editor holds is drawn without what could act there.

Whoever draws model text still passes it through `printable`; this is for what is pasted, recalled or forgotten.
"""

from rich.cells import cell_len
from rich.segment import Segment
from textual.color import Color
from textual.filter import LineFilter

from mp13.chat.text import printable


class Gate(LineFilter):
    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:
        """Every line of the screen comes by here. Its width stays, since it is laid out already."""
        return [segment if segment.control else _drawn(segment) for segment in segments]


def _drawn(segment: Segment) -> Segment:
    text = segment.text
    if text.isascii() and text.isprintable():
        return segment
    drawn = printable(text.replace("\n", " ").replace("\t", " "))
    if drawn == text:
        return segment
    return Segment(drawn + " " * (cell_len(text) - cell_len(drawn)), segment.style)
