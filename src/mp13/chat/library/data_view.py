"""Training data as people read it: what a check found, and samples with the tokens in colour that carry loss.

All of it comes from files and models; nothing here lets their control characters through.
"""

import re
from collections.abc import Sequence
from dataclasses import asdict
from itertools import groupby
from typing import TYPE_CHECKING, Any

from mp13.chat.text import printable
from mp13.engine.training.rendering.request import Rendered, RenderedSample
from mp13.engine.training.sample import Sample
from mp13.library.data.check import CheckReport, SourceCount, TokenCount

if TYPE_CHECKING:
    from rich.text import Text

_LEARNED, _OTHER = "black on #a6e3a1", "dim"
_BEGIN, _END = "⟦", "⟧"  # around what is learned, where there are no colours
_CONTROLS = re.compile("[\x00-\x08\n-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_BAR = 40  # characters of the longest bar


def check_text(report: CheckReport) -> str:
    """Of data without errors."""
    lines = [_counted("train", count) for count in report.train]
    lines += [_counted("eval", count) for count in report.evaluation]
    lines.append(f"duplicates  {report.exact_duplicates:,} exact, {report.near_duplicates:,} near")
    if report.evaluation:
        lines.append("leakage     none: no sample of eval is in train")
    if report.tokens is None:
        lines.append("tokens      not counted; --model M counts them as that model reads them")
    else:
        lines += _token_lines(report.tokens)
    return "\n".join(printable(line) for line in lines)


def check_json(report: CheckReport) -> dict[str, Any]:
    fields = asdict(report)
    return {"ok": not report.errors} | fields


def _counted(role: str, count: SourceCount) -> str:
    shape = f"{count.format}, " if count.format else ""
    learned = f"{shape}{_many(count.answers, 'answer')} to learn"
    return f"{role:<10}  {count.source}: {_many(count.samples, 'sample')} ({learned})"


def _token_lines(tokens: TokenCount) -> list[str]:
    found = tokens.sequences
    share = tokens.learned / found.total
    lines = [
        f"tokens      {found.total:,} in {_many(found.count, 'sequence')}, {tokens.learned:,} carry loss ({share:.0%})",
        f"lengths     {found.shortest:,} to {found.longest:,}, median {found.median:,}, 95% up to {found.p95:,}; "
        f"{tokens.max_len:,} are allowed",
    ]
    ranges = [f"{bin.least:,}–{bin.most:,}" for bin in found.bins]
    width, tallest = max(map(len, ranges)), max(bin.count for bin in found.bins)
    counts = [f"{bin.count:,}" for bin in found.bins]
    for name, count, bin in zip(ranges, counts, found.bins, strict=True):
        bar = "█" * (-(-bin.count * _BAR // tallest))
        lines.append(f"  {name:>{width}}  {count:>{max(map(len, counts))}}  {bar}".rstrip())
    return lines


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


def preview_text(samples: Sequence[Sample], rendered: Sequence[RenderedSample], plain: bool) -> "Text":
    """Each sequence under its place. With `plain`, marks instead of colours."""
    from rich.text import Text

    text = Text(end="")
    for sample, sequences in zip(samples, rendered, strict=True):
        for number, sequence in enumerate(sequences.sequences, start=1):
            several = f", sequence {number} of {len(sequences.sequences)}" if len(sequences.sequences) > 1 else ""
            place = printable(f"{sample.place}{several}")
            text.append(place, "bold")
            text.append(f" · {len(sequence.ids):,} tokens, {sequence.num_learned:,} carry loss\n")
            _append(text, sequence, plain)
            text.append("\n\n")
    if plain:
        return text.append(f"{_BEGIN}carries loss{_END}, all else is only read")
    return text.append("carries loss", _LEARNED).append(", all else is only read", _OTHER)


def _append(text: "Text", sequence: Rendered, plain: bool) -> None:
    for is_learned, tokens in groupby(zip(sequence.mask, sequence.texts, strict=True), key=lambda token: token[0]):
        shown = printable(_CONTROLS.sub(_visible, "".join(token for _, token in tokens)))
        if plain:
            text.append(f"{_BEGIN}{shown}{_END}" if is_learned else shown)
        else:
            text.append(shown, _LEARNED if is_learned else _OTHER)
    if text.plain.endswith("\n"):
        text.right_crop(1)


def _visible(control: re.Match[str]) -> str:
    """A token that a terminal would act on, or not show, is there, too: as a picture, or by its number."""
    code = ord(control[0])
    if control[0] == "\n":
        return "↵\n"
    return chr(0x2400 + code) if code < 0x20 else f"\\u{code:04x}"


def preview_json(samples: Sequence[Sample], rendered: Sequence[RenderedSample]) -> list[dict[str, Any]]:
    return [
        {
            "source": sample.source,
            "line": sample.line,
            "ids": list(sequence.ids),
            "mask": [int(is_learned) for is_learned in sequence.mask],
            "texts": list(sequence.texts),
        }
        for sample, sequences in zip(samples, rendered, strict=True)
        for sequence in sequences.sequences
    ]
