"""Search finds what was said in any script, takes quotes and operators for text, and puts the best first."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from mp13.chat.conversation.store import ConversationStore
from mp13.chat.conversation.store_search import snippet
from mp13.chat.conversation.turn import Turn


@pytest.fixture
def store() -> Iterator[ConversationStore]:
    with ConversationStore() as opened:
        yield opened


def say(store: ConversationStore, *texts: str) -> None:
    for number, text in enumerate(texts):
        store.add(f"c{number}", Turn("user", text, "base", id=f"t{number}"))


def found(store: ConversationStore, text: str) -> list[str]:
    return [hit.turn_id for hit in store.search(text)]


@pytest.mark.parametrize(
    ("text", "wanted", "marked"),
    [
        ("今天天气很好,我们去公园散步吧", "公园", "…天天气很好,我们去\x02公园\x03散步吧"),
        ("日本語のトークナイザーについて教えて", "ナイザー", "\x02ナイザー\x03"),
        ("한국어 문장에서 찾기", "장에", "\x02장에\x03"),
        ("ภาษาไทยไม่มีช่องว่าง", "ไม่มี", "\x02ไม่มี\x03"),
        ("用python写一个循环", "python", "\x02python\x03"),
        ("shrug 🤷‍♀️ and go", "🤷‍♀️", "\x02🤷‍♀️\x03"),
        ("how do I write C++ or a->b", "->", "a\x02->\x03b"),
        ("Он сказал ПРИВЕТ всем", "привет", "\x02ПРИВЕТ\x03"),
        ("مرحبا بالعالم", "بالعالم", "\x02بالعالم\x03"),
        ("supercalifragilistic", "fragil", "\x02fragil\x03"),
        ("die Straße", "STRASSE", "\x02Straße\x03"),
    ],
)
def test_a_text_of_any_script_is_found_by_a_part_of_it(
    store: ConversationStore, text: str, wanted: str, marked: str
) -> None:
    say(store, "nothing of it", text)
    (hit,) = store.search(wanted)
    assert hit.turn_id == "t1"
    assert marked.lstrip("…") in hit.snippet or marked in hit.snippet


def test_of_texts_without_spaces_those_come_first_that_say_it_often_for_their_length(store: ConversationStore) -> None:
    say(store, "天气" + "无关的话" * 40, "天气天气天气不错", "天气不错啊真的", "没有这个词")
    assert found(store, "天气") == ["t1", "t2", "t0"]
    say_also = Turn("user", "天气 weather", "base", id="both")
    store.add("c9", say_also)
    assert found(store, "天气 weather") == ["both"]


def test_words_of_the_index_come_before_anything_else(store: ConversationStore) -> None:
    say(store, "a stream", "the upstream river")
    assert found(store, "stream") == ["t0"]
    assert found(store, "ream") == ["t1", "t0"] or found(store, "ream") == ["t0", "t1"]


@pytest.mark.parametrize(
    "text",
    ['say "hello" twice', "a AND b", "NOT this", "col:umn", "star*", "(paren", "NEAR(a b)", "^caret", "a OR b", "don't",
     "50%", "under_score", "back\\slash", "-minus"],
)  # fmt: skip
def test_quotes_and_operators_are_text(store: ConversationStore, text: str) -> None:
    say(store, "unrelated words here", text)
    assert found(store, text) == ["t1"]
    for word in text.split():
        assert "t1" in found(store, word)


def test_percent_and_underscore_match_nothing_but_themselves(store: ConversationStore) -> None:
    say(store, "abc", "a_c and 100%")
    assert found(store, "a_c") == ["t1"]
    assert found(store, "%") == ["t1"]


def test_what_was_deleted_is_not_found_in_any_script(store: ConversationStore) -> None:
    say(store, "公园里的人", "公园")
    store.delete("c1")
    store.move("c0", None, removed=["t0"])
    assert found(store, "公园") == []


@pytest.mark.parametrize("word", ["forty", "四十"])
def test_a_turn_that_forks_copied_is_found_once(store: ConversationStore, word: str) -> None:
    """In the conversation that is open, or where it was first; and where copies are asked for, in each."""
    original, other = Turn("user", f"the {word} thieves", "base"), Turn("user", f"{word} winks", "base")
    store.add("first", original)
    store.add("other", other)
    for fork in ("second", "third"):
        store.add(fork, replace(original, id=fork))
    store.add("again", Turn("user", original.text, "base", created_at=original.created_at + 60))  # said once more

    def where(**how: Any) -> list[str]:
        return sorted(hit.conversation_id for hit in store.search(word, **how))

    assert where() == ["again", "first", "other"]
    assert where(present="third") == ["again", "other", "third"]
    assert where(copies=True) == ["again", "first", "other", "second", "third"]
    assert len(store.search(word, 2)) == 2
    store.delete("first")
    assert where() == ["again", "other", "second"]


def test_a_snippet_shows_what_was_found_in_a_long_text() -> None:
    text = "好" * 500 + "公园" + "好" * 500
    shown = snippet(text, ["公园"])
    assert shown.startswith("…好") and shown.endswith("好…") and "\x02公园\x03" in shown
    assert len(shown) < 100
