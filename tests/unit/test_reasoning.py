"""What a model thinks aloud is told apart from its answer, whole or while it is still written."""

import pytest

from mp13.chat.conversation.reasoning import Parts, answer_in, parts_of


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("Hello.", Parts(None, "Hello.")),
        ("", Parts(None, "")),
        ("<think>\nhm\n</think>\n\nHello.", Parts("hm", "Hello.")),
        ("\n<think>hm</think>Hello.", Parts("hm", "Hello.")),
        ("<think></think>Hello.", Parts("", "Hello.")),
        ("<think>hm", Parts("hm", "", is_open=True)),
        ("<think>hm</thi", Parts("hm</thi", "", is_open=True)),
        ("<thi", Parts(None, "", is_open=True)),
        ("<this> is", Parts(None, "<this> is")),
        ("hm, well\n</think>\nHello.", Parts("hm, well", "Hello.")),
        ("a `</think>` in a text", Parts(None, "a `</think>` in a text")),
        ("Use <think>x</think> tags", Parts(None, "Use <think>x</think> tags")),
    ],
)
def test_thought_and_answer(text: str, parts: Parts) -> None:
    assert parts_of(text) == parts


def test_a_copy_leaves_the_thought_out_unless_there_is_nothing_else() -> None:
    assert answer_in("<think>hm</think>\n\nHello.") == "Hello."
    assert answer_in("<think>hm") == "<think>hm"


def test_what_is_drawn_of_a_growing_text_only_grows() -> None:
    text, drawn = "<think>hm\nwell</think>\n\n**Hello**, <b>you</b>.", ""
    for end in range(len(text) + 1):
        answer = parts_of(text[:end]).answer
        assert answer.startswith(drawn)
        drawn = answer
    assert drawn == "**Hello**, <b>you</b>."
