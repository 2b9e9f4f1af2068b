"""Nothing that a model writes acts on the terminal."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mp13.chat.text import printable, utf8


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("plain\ttext\n", "plain\ttext\n"),
        ("naïve 日本語 🏴‍☠️ שלום", "naïve 日本語 🏴‍☠️ שלום"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07after", "after"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1bPdevice\x1b\\after", "after"),
        ("\x9b31mred", "red"),
        ("\x1bcreset", "reset"),
        ("bell\x07 back\x08 return\r", "bell back return"),
        ("\u202eevil\u2066 a\u200fb", "evil ab"),
        ("\u200bno\ufeffbody\u2060 sees\u3164 it", "nobody sees it"),
        ("hid\U000e0068\U000e0069den", "hidden"),
        (
            "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f a flag",
            "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f a flag",
        ),
        ("می\u200cخواهم", "می\u200cخواهم"),
        ("\x1b]0;never ended, and a long text", "0;never ended, and a long text"),
        ("\x1b", ""),
        ("\x1b[", ""),
        ("lone \udcff surrogate", "lone  surrogate"),
    ],
)
def test_controls_go_and_text_stays(raw: str, shown: str) -> None:
    assert printable(raw) == shown


@given(st.text(st.characters(codec=None) | st.sampled_from("\x1b[]\x9b\x07mPX^_\\")))
def test_no_control_character_survives_and_a_second_pass_changes_nothing(raw: str) -> None:
    shown = printable(raw)
    assert not [c for c in shown if c not in "\n\t" and (ord(c) < 0x20 or 0x7F <= ord(c) < 0xA0)]
    assert printable(shown) == shown
    shown.encode()


@given(st.text(st.characters(codec=None)))
def test_what_is_stored_is_utf8(raw: str) -> None:
    utf8(raw).encode()
