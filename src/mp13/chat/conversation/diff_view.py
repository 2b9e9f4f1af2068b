"""A diff as coloured text, the same on screen and command line: where a mix made a difference, and what it was.

Token texts come from a model; nothing here lets their control characters through.
"""

import json

from rich.text import Text

from mp13.chat.conversation.diff import Diff, DiffToken
from mp13.chat.text import printable

_HEAT = ((3.0, "black on #f38ba8"), (1.0, "black on #fab387"), (0.25, "black on #f9e2af"), (0.05, "black on #d9e0c0"))
_STRONGEST = 8  # tokens in the list


def diff_text(diff: Diff, plain: bool) -> Text:
    """Summary, the answer with its heat, and the strongest tokens. With `plain`, marks instead of colours."""
    text = Text(end="")
    count = len(diff.tokens)
    text.append(f"{diff.mix} beside {diff.other}", "bold")
    text.append(f" · mean KL {diff.mean_kl:.3f} nats · {diff.turned_share:.0%} of {count} tokens turned\n")
    if diff.note:
        text.append(f"{printable(diff.note)}\n", "italic")
    text.append("\n")
    for token in diff.tokens:
        shown = printable(token.text)
        if plain:
            text.append(f"[{shown}|{printable(token.other_best)}]".replace("\n", "↵") if token.is_turned else shown)
        else:
            text.append(shown, f"{_heat(token)}{' underline' if token.is_turned else ''}")
    text.append("\n\n")
    text.append_text(_legend(diff, plain))
    text.append(f"\n\n{_strongest(diff)}")
    return text


def _legend(diff: Diff, plain: bool) -> Text:
    if plain:
        return Text(
            f"[a|b]: {diff.mix} and {diff.other} would go on differently; a was written, {diff.other} prefers b"
        )
    legend = Text("KL")
    for least, style in reversed(_HEAT):
        legend.append(" ").append(f" ≥ {least:g} ", style)
    return legend.append(" · ").append("turned", "underline").append(f": {diff.other} would go on differently")


def _strongest(diff: Diff) -> str:
    """The tokens at which the two are farthest apart, as a table."""
    tokens = sorted(diff.tokens, key=lambda token: -token.kl)[:_STRONGEST]
    rows = [("TOKEN", "LOG-PROB", f"UNDER {diff.other}", "KL", f"{diff.other} PREFERS")]
    for token in tokens:
        numbers = (f"{token.logprob:.2f}", f"{token.other_logprob:.2f}", f"{token.kl:.2f}")
        rows.append((_quoted(token.text), *numbers, _quoted(token.other_best) if token.is_turned else ""))
    first, *widths, _ = (max(len(row[column]) for row in rows) for column in range(5))
    return "\n".join(
        "  ".join([row[0].ljust(first), *(n.rjust(w) for n, w in zip(row[1:4], widths, strict=True)), row[4]]).rstrip()
        for row in rows
    )


def _heat(token: DiffToken) -> str:
    return next((style for least, style in _HEAT if token.kl >= least), "")


def _quoted(text: str) -> str:
    return json.dumps(printable(text), ensure_ascii=False)
