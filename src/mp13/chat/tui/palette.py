"""One colour per adapter name, the same in every session, so that a glance tells which adapter spoke.

The colours are theme variables (`$voice-0` … and `$voice-base`), so stylesheet and text follow light and dark.
"""

from zlib import crc32

from mp13.chat.text import printable
from mp13.errors import MixError
from mp13.mix import BASE, parse_mix

_DARK = ("#f2a65a", "#5cc8c2", "#c792ea", "#8fc96b", "#ef7d95", "#6ea8fe", "#e5c453", "#d98cc4")
_LIGHT = ("#a8540a", "#0b7a75", "#7b3fb0", "#3f7d1d", "#b52a4b", "#1f5fc4", "#806300", "#9b3383")


def voice_variables(dark: bool) -> dict[str, str]:
    """The theme variables behind the voices."""
    colours = {f"voice-{index}": colour for index, colour in enumerate(_DARK if dark else _LIGHT)}
    return colours | {"voice-base": "#8b93a1" if dark else "#6b7280"}


def voice(name: str) -> str:
    """The theme variable (and CSS class) of the adapter `name`."""
    return f"voice-{crc32(name.encode('utf-8', 'surrogatepass')) % len(_DARK)}"


def mix_voices(mix: str) -> tuple[str, ...]:
    """The variables of the mix's members, strongest first; the base's own where nothing else speaks."""
    try:
        members = parse_mix(mix).members
    except MixError:
        members = ()
    ranked = sorted(members, key=lambda member: -abs(member[1]))
    return tuple(voice(name) for name, _ in ranked) or ("voice-base",)


def mix_spans(mix: str) -> list[tuple[str, str]]:
    """`mix` as pieces of text with their style: each member in its own colour."""
    if mix == BASE:
        return [(mix, "bold $voice-base")]
    spans: list[tuple[str, str]] = []
    for member in mix.split("+"):
        spans += [("+", "$foreground 60%")] if spans else []
        spans.append((printable(member), f"bold ${voice(member.partition(':')[0])}"))
    return spans
