"""Reads what /compare is given: mixes, then the text they are to answer."""

import difflib
from collections.abc import Sequence

from mp13.chat.conversation.ask import Ask
from mp13.errors import ConfigError, MixError
from mp13.mix import parse_mix

END_OF_MIXES = "--"


def comparison_of(argument: str, names: Sequence[str]) -> Ask:
    """The leading words that are mixes of `names`, and the rest as text; `--` parts them where a text begins like one.

    Raises:
        ConfigError: fewer than two mixes, or the text begins with what looks like a misspelt one.
    """
    mixes: list[str] = []
    rest = argument.strip()
    while rest:
        word, _, after = rest.partition(" ")
        if word == END_OF_MIXES:
            rest = after
            break
        if not _is_mix_of(word, names):
            _check_is_text(word, names)
            break
        mixes.append(word)
        rest = after.lstrip()
    if len(mixes) < 2:
        word = rest.partition(" ")[0]
        found = f"{word!r} is none here" if word else f"only {mixes[0]} is named" if mixes else "none is named"
        raise ConfigError(f"/compare needs two mixes or more, then a text if it is new; {found}")
    return Ask(rest.strip() or None, tuple(mixes))


def _is_mix_of(word: str, names: Sequence[str]) -> bool:
    try:
        mix = parse_mix(word)
    except MixError:
        return False
    return all(name in names for name in mix.names)


def _check_is_text(word: str, names: Sequence[str]) -> None:
    """A misspelt adapter must not become the first word of the prompt."""
    bare = word.partition("+")[0].partition(":")[0]
    near = difflib.get_close_matches(bare, names, n=1, cutoff=0.75)
    if near or bare in names:
        meant = f"did you mean {near[0]!r}? " if near and near[0] != bare else ""
        raise ConfigError(f"{word!r} is no mix of adapters here; {meant}Write -- before a text that begins so")
