"""The grammar of a mix: which adapters speak, and how strongly. Shared by engine, service and chat; no torch.

    base    a    a:0.7    a:0.7+b:-0.3

Names are `[A-Za-z0-9._-]{1,64}` and not `base`; weights are plain signed decimals, 1 when left out; a name
may stand once. The canonical form sorts members by name and drops a weight of 1. An adapter in training has versions:
`a@120` is the one of step 120, `a@latest` the newest there is.
"""

import math
import re
from dataclasses import dataclass
from decimal import Decimal

from mp13.errors import MixError

BASE = "base"
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_VERSIONED = re.compile(r"([A-Za-z0-9._-]{1,64})@(0|[1-9][0-9]{0,11}|latest)", re.ASCII)
_MEMBER = re.compile(
    r"([A-Za-z0-9._-]{1,64})(@(?:0|[1-9][0-9]{0,11}|latest))?(?::([+-]?(?:\d+(?:\.\d*)?|\.\d+)))?(?:\+|$)", re.ASCII
)


@dataclass(frozen=True)
class Mix:
    """A weighted sum of adapters over the base; no members is the base itself."""

    members: tuple[tuple[str, float], ...] = ()  # (name, weight), sorted by name

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.members)

    def weight(self, name: str) -> float | None:
        """None where `name` is no member."""
        return dict(self.members).get(name)

    def weighted(self, name: str, weight: float | None) -> "Mix":
        """The same with `name` at `weight`, or without it where that is None."""
        members = dict(self.members) | ({} if weight is None else {name: weight})
        if weight is None:
            members.pop(name, None)
        return Mix(tuple(sorted(members.items())))

    def __str__(self) -> str:
        return "+".join(n if w == 1.0 else f"{n}:{_decimal(w)}" for n, w in self.members) or BASE


def check_name(name: str) -> str:
    """`name` if it may name an adapter.

    Raises:
        MixError: it is empty, too long, reserved, or has a character outside `[A-Za-z0-9._-]`.
    """
    if name == BASE:
        raise MixError("'base' is the model without adapters and cannot name an adapter; choose another name")
    if not _NAME.fullmatch(name) or set(name) == {"."}:
        raise MixError(f"{name!r} cannot name an adapter; use 1 to 64 letters, digits, '.', '_' or '-'")
    return name


def version_of(name: str) -> tuple[str, int | None] | None:
    """The adapter and the step that a member means, no step for the latest; None for a name without a version."""
    match = _VERSIONED.fullmatch(name)
    return None if match is None else (match[1], None if match[2] == "latest" else int(match[2]))


def parse_mix(text: str) -> Mix:
    """Read a mix such as `a:0.7+b`.

    Raises:
        MixError: the text is not a mix; the sentence quotes the part that is wrong.
    """
    text = text.strip()
    if text == BASE:
        return Mix()
    members: dict[str, float] = {}
    position = 0
    while position < len(text) or not members:
        match = _MEMBER.match(text, position)
        if match is None or (match[0].endswith("+") and match.end() == len(text)):
            raise MixError(f"{text!r} is not a mix (at {text[position:]!r}); write base, A, A:0.7 or A:0.7+B:-0.3")
        name, version, weight = match[1], match[2] or "", float(match[3] or 1)
        if name == BASE:
            raise MixError(f"{text!r}: 'base' stands alone; leave it out of the sum, the base is always in it")
        if (name := check_name(name) + version) in members:
            raise MixError(f"{text!r} names {name!r} twice; give it once with the sum of its weights")
        if not math.isfinite(weight):
            raise MixError(f"{text!r}: the weight of {name!r} is too large; weights are usually between -2 and 2")
        members[name] = weight + 0.0  # -0 becomes 0
        position = match.end()
    return Mix(tuple(sorted(members.items())))


def _decimal(weight: float) -> str:
    return format(Decimal(repr(weight)).normalize(), "f")
