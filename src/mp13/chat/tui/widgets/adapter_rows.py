"""How an adapter looks in the list: its colour, its weight in the mix, where it is, and what there is to know of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.content import Content

from mp13.chat.text import one_line
from mp13.chat.tui.palette import voice
from mp13.chat.tui.widgets.rows import FAINT, MUTED, spread
from mp13.mix import BASE, Mix

if TYPE_CHECKING:
    from mp13.chat.library.shelf import Shelved

_BAR = 6  # cells of the bar of a weight of 1 in the narrowest panel


def base_row(mix: Mix, width: int, digit: str = "0") -> Content:
    """The model alone; it is under every mix, and answers where no adapter is in it."""
    mark = "○" if mix.members else "●"
    name = Content.assemble((f"{digit} ", FAINT), (f"{mark} ", "$voice-base"), (BASE, "bold $voice-base"))
    return Content.assemble(spread(name, Content(""), width), ("\n  the model alone", MUTED))


def adapter_row(one: Shelved, mix: Mix, width: int, digit: str = " ", typed: str = "") -> Content:
    """Two lines: who, and how strongly; where it is now, and how far it moves the base. `digit` is the key that chooses
    it, with Alt; `typed` the weight that the reader is writing."""
    name, weight = one.adapter.name, mix.weight(one.adapter.name)
    colour = f"${voice(name)}"
    if one.adapter.unfit:
        head = Content.assemble(("× ", "$text-error"), (one_line(name), MUTED))
    else:
        head = Content.assemble((f"{'○' if weight is None else '●'} ", colour), (one_line(name), f"bold {colour}"))
    head = Content.assemble((f"{digit} ", FAINT), head)
    if typed:
        shown = Content.assemble((f"{typed}▏", f"bold {colour}"))
    else:
        shown = Content("") if weight is None else weight_bar(weight, colour, max(_BAR, width // 4))
    return Content.assemble(spread(head, shown, width), "\n", _place(one).truncate(width, ellipsis=True))


def weight_bar(weight: float, colour: str, cells: int) -> Content:
    """`━━━━── 0.7`: full at 1, and beyond; a weight below 0 has its bar in the colour of warnings."""
    full = min(round(abs(weight) * cells), cells)
    style = colour if weight >= 0 else "$text-warning"
    number = f"{weight:.2f}".rstrip("0").rstrip(".")
    return Content.assemble(("━" * full, style), ("─" * (cells - full), "$foreground 25%"), f" {number:>4}")


def _place(one: Shelved) -> Content:
    from mp13.chat.library.shown import STATES, effect

    moved = effect(one.adapter.effect, short=True)
    parts = [("changed on disk", "$text-warning")] if one.changed else []
    parts += [(STATES[one.state], MUTED)]
    parts += [(f"effect {moved}", "$text-warning" if moved == "none" else MUTED)] if moved else []
    joined = [part for piece in parts for part in ((" · ", FAINT), piece)][1:]
    return Content.assemble("  ", *joined)


def base_facts() -> Content:
    return Content.styled("The model as it is. Every mix is added to it.", MUTED)


def adapter_facts(one: Shelved) -> Content:
    """What is known of the adapter that is marked: why it is unfit, what to do about it, what it is."""
    from mp13.chat.library.shown import effect, size

    adapter = one.adapter
    facts = [f"{adapter.kind}{f', rank {adapter.rank}' if adapter.rank else ''}, {size(adapter.size_bytes)}"]
    facts += [effect(adapter.effect)] if adapter.effect is not None else []
    facts += [adapter.notes.description] if adapter.notes.description else []
    lines = [Content.styled(one_line(fact), MUTED) for fact in facts]
    if one.changed:
        lines.insert(0, Content.styled("Its folder changed since it was loaded; /reload picks it up.", "$text-warning"))
    if adapter.unfit:
        lines.insert(0, Content.styled(one_line(adapter.unfit), "$text-error"))
    return Content("\n").join(lines)
