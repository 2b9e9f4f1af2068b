"""Tokens become text piece by piece: whole characters only, nothing lost, nothing of a stop string shown."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from mp13.engine.text.detokenizer import Detokenizer, StopStrings
from tests.engine.tiny_tokenizers import make_tokenizer

TEXTS = [
    "hello world", " leading and trailing ", "\n\n  indented\n\ttabbed", "Grüße, ça va? Αθήνα",
    "日本語の文章、中文。한국어",
    "مرحبا بالعالم", "नमस्ते दुनिया", "👍 ok 🎉🎉", "👩‍👩‍👧‍👦 family", "🏳️‍🌈 flag 🇩🇪🇯🇵", "e\u0301 a\u0308\u0304 combining",
    "\u200bzero\u200bwidth", "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𓀀", "a real \ufffd mark", "ends in one \ufffd",
    "", " ", "…", "\x00\x1b[31m", "a  b   c    d",
]  # fmt: skip
both_kinds = pytest.mark.parametrize("kind", ["byte-level", "sentencepiece"])


@cache
def tokenizer_of(kind: str) -> Any:
    return make_tokenizer(kind)


def decode(tokenizer: Any, ids: Sequence[int]) -> str:
    text: str = tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return text


def pieces(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """What each token gives, and what is left at the end; after each the text so far must be certain."""
    detokenizer, whole = Detokenizer(tokenizer), decode(tokenizer, ids)
    made, shown = [], ""
    for token_id in ids:
        made.append(detokenizer.add(token_id))
        shown += made[-1]
        assert whole.startswith(shown)
        if "\ufffd" not in whole:
            assert "\ufffd" not in made[-1]
    made.append(detokenizer.flush())
    assert detokenizer.flush() == ""
    return made


@both_kinds
@pytest.mark.parametrize("text", TEXTS)
def test_the_pieces_of_a_text_make_the_text(kind: str, text: str) -> None:
    tokenizer = tokenizer_of(kind)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    made = pieces(tokenizer, ids)
    assert "".join(made) == decode(tokenizer, ids)
    assert made[-1] == "" or text.endswith("\ufffd")


@pytest.mark.parametrize("text", TEXTS)
def test_the_pieces_of_a_text_make_the_text_with_a_real_tokenizer(text: str, starter_model: Path) -> None:
    tokenizer = starter_tokenizer(starter_model)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert "".join(pieces(tokenizer, ids)) == text


@cache
def starter_tokenizer(folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(folder)


def test_a_character_comes_with_its_last_byte() -> None:
    tokenizer = tokenizer_of("byte-level")
    ids = tokenizer("a😀b", add_special_tokens=False)["input_ids"]
    assert len(ids) == 6
    assert pieces(tokenizer, ids) == ["a", "", "", "", "😀", "b", ""]


def test_half_a_character_at_the_end_is_kept_for_the_flush() -> None:
    tokenizer = tokenizer_of("byte-level")
    ids = tokenizer("a😀", add_special_tokens=False)["input_ids"][:-1]
    assert pieces(tokenizer, ids) == ["a", "", "", "", "\ufffd"]


def test_bytes_that_never_make_a_character_come_with_the_text_behind_them() -> None:
    tokenizer = tokenizer_of("byte-level")
    first_byte = tokenizer("😀", add_special_tokens=False)["input_ids"][0]
    ids = [first_byte, first_byte, *tokenizer("ab", add_special_tokens=False)["input_ids"]]
    assert "".join(pieces(tokenizer, ids)) == "\ufffd\ufffdab"


@both_kinds
def test_special_tokens_leave_no_text(kind: str) -> None:
    tokenizer = tokenizer_of(kind)
    special = tokenizer.convert_tokens_to_ids("<|im_end|>")
    hello, world = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("hello", " world"))
    ids = [special, *hello, special, special, *world, special]
    assert "".join(pieces(tokenizer, ids)) == decode(tokenizer, ids)
    assert "im_end" not in decode(tokenizer, ids)


def test_the_first_token_of_a_sentencepiece_answer_loses_its_space_and_no_other() -> None:
    tokenizer = tokenizer_of("sentencepiece")
    the, dog = tokenizer.convert_tokens_to_ids(["▁the", "▁dog"])
    assert pieces(tokenizer, [the, dog, the]) == ["the", " dog", " the", ""]


@both_kinds
@given(text=st.text(st.characters(codec="utf-8"), max_size=30))
@example("😀" * 5)
def test_any_text_comes_whole(kind: str, text: str) -> None:
    tokenizer = tokenizer_of(kind)
    ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert "".join(pieces(tokenizer, ids)) == decode(tokenizer, ids)


@given(st.lists(st.integers(0, len(tokenizer_of("byte-level")) - 1), max_size=25))
def test_any_ids_come_whole(ids: list[int]) -> None:
    tokenizer = tokenizer_of("byte-level")
    assert "".join(pieces(tokenizer, ids)) == decode(tokenizer, ids)


@given(st.lists(st.integers(257, len(tokenizer_of("sentencepiece")) - 1) | st.text("aé😀 ", max_size=3), max_size=12))
def test_any_ids_with_whole_characters_in_bytes_come_whole(parts: list[int | str]) -> None:
    """A broken character would take the one before it along in a whole decode, when both are spelled in bytes."""
    tokenizer, ids = tokenizer_of("sentencepiece"), []
    for part in parts:
        ids += [part] if isinstance(part, int) else tokenizer(part, add_special_tokens=False)["input_ids"]
    assert "".join(pieces(tokenizer, ids)) == decode(tokenizer, ids)


@settings(max_examples=100)
@given(data=st.data())
def test_any_ids_of_a_real_tokenizer_come_whole(data: st.DataObject, starter_model: Path) -> None:
    tokenizer = starter_tokenizer(starter_model)
    ids = data.draw(st.lists(st.integers(0, len(tokenizer) - 1) | st.integers(17, 280), max_size=25))
    assert "".join(pieces(tokenizer, ids)) == decode(tokenizer, ids)


def until_stop(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    """Read `text` character by character; end at the first stop string that is complete, the longest if several are."""
    for end in range(1, len(text) + 1):
        ending = [stop for stop in stops if text[:end].endswith(stop)]
        if ending:
            return text[: end - max(map(len, ending))], True
    return text, False


def stream(chunks: Sequence[str], stops: Sequence[str]) -> tuple[str, bool]:
    watcher, shown = StopStrings(stops), ""
    for chunk in chunks:
        text, stopped = watcher.add(chunk)
        shown += text
        if stopped:
            return shown, True
    return shown + watcher.flush(), False


words = st.text("abc", min_size=1, max_size=4)


# Three letters, so that stops overlap, repeat and contain each other.
@given(chunks=st.lists(st.text("abc", max_size=5), max_size=8), stops=st.lists(words, max_size=3))
@example(["abcd"], ["abcd", "bc"])
@example(["abc", "d"], ["abcd", "bc"])
@example(["a", "a", "a", "b"], ["aab"])
@example(["ab", "c"], ["bc", "abc"])
def test_the_end_does_not_depend_on_how_the_text_is_cut(chunks: list[str], stops: list[str]) -> None:
    assert stream(chunks, stops) == until_stop("".join(chunks), stops)


def test_only_what_may_become_a_stop_string_is_held_back() -> None:
    watcher = StopStrings(["###", "\n\nUser:"])
    assert watcher.add("text #") == ("text ", False)
    assert watcher.add("#a\n") == ("##a", False)
    assert watcher.add("\nUs") == ("", False)
    assert watcher.add("ers") == ("\n\nUsers", False)
    assert watcher.add("##") == ("", False)
    assert watcher.add("# more") == ("", True)
    assert watcher.flush() == ""


def test_without_stop_strings_nothing_is_held_back() -> None:
    assert StopStrings(()).add("anything") == ("anything", False)
