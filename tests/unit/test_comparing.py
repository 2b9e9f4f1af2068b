"""What /compare reads: mixes, then a text."""

import pytest

from mp13.chat.commands.comparing import comparison_of
from mp13.chat.conversation.ask import Ask
from mp13.errors import ConfigError

NAMES = ("base", "pirate", "json")


@pytest.mark.parametrize(
    ("argument", "mixes", "text"),
    [
        ("base pirate", ("base", "pirate"), None),
        ("base pirate What is the sea?", ("base", "pirate"), "What is the sea?"),
        ("  base   pirate:0.5+json:-1  two\nlines ", ("base", "pirate:0.5+json:-1"), "two\nlines"),
        ("base pirate -- json is what?", ("base", "pirate"), "json is what?"),
        ("base pirate --", ("base", "pirate"), None),
        ("base pirate Hello: who are you?", ("base", "pirate"), "Hello: who are you?"),
    ],
)
def test_the_words_that_are_mixes_answer_the_rest(argument: str, mixes: tuple[str, ...], text: str | None) -> None:
    assert comparison_of(argument, NAMES) == Ask(text, mixes)


@pytest.mark.parametrize(
    ("argument", "sentence"),
    [
        ("", "two mixes or more.*none is named"),
        ("base", "two mixes or more.*only base is named"),
        ("base nope hello", "two mixes or more.*'nope' is none here"),
        ("What is the sea?", "'What' is none here"),
        ("base pirat hello", "'pirat' is no mix of adapters here; did you mean 'pirate'"),
        ("base json pirat:0.5 hello", "'pirat:0.5' is no mix .*did you mean 'pirate'.*-- before a text"),
        ("base json pirate:x hello", "'pirate:x' is no mix"),
    ],
)
def test_what_looks_like_a_misspelt_mix_is_not_taken_for_text(argument: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        comparison_of(argument, NAMES)
