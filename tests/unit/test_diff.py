"""A diff: its numbers, its text, and that no token of a model can act on a terminal."""

from mp13.chat.conversation.diff import Diff, diff_of
from mp13.chat.conversation.diff_view import diff_text
from mp13.service.schema import ScoreReport, TokenScore


def report(*texts: str) -> ScoreReport:
    """Each token at -0.5, the other at -2.5; of the first the other would have made something else."""
    ids = tuple(range(len(texts)))
    own = tuple(TokenScore(id, -0.5, id, -0.5, 0.0) for id in ids)
    other = tuple(TokenScore(id, -2.5, 99 if id == 0 else id, -1.0, 4.0 if id == 0 else 0.1) for id in ids)
    return ScoreReport(token_ids=ids, texts=texts, scores=(own, other), best_texts=(texts, ("hm", *texts[1:])))


def test_a_diff_tells_each_token_under_both_and_what_the_other_prefers() -> None:
    diff = diff_of(report("Arr", ", ", "matey"), "pirate", "base")
    first, second, _ = diff.tokens
    assert (first.text, first.logprob, first.other_logprob, first.gain) == ("Arr", -0.5, -2.5, 2.0)
    assert (first.is_turned, first.other_best, second.is_turned) == (True, "hm", False)
    assert (round(diff.mean_kl, 6), round(diff.turned_share, 6)) == (1.4, round(1 / 3, 6))
    whole = diff.as_json()
    assert whole.keys() == {"mix", "other", "note", "mean_kl", "turned_share", "tokens"}
    assert whole["tokens"][0]["other_best"] == "hm"


def test_the_heat_map_is_the_answer_with_colours_where_the_mix_made_a_difference() -> None:
    text = diff_text(diff_of(report("Arr", ", ", "matey"), "pirate", "base"), plain=False)
    styles = {text.plain[span.start : span.end]: str(span.style) for span in text.spans}
    assert "\nArr, matey\n" in text.plain
    assert "underline" in styles["Arr"]
    assert styles["Arr"].split(" on ")[1] != styles[", "].split(" on ")[1]
    assert "pirate beside base · mean KL 1.400 nats · 33% of 3 tokens turned" in text.plain
    assert text.plain.split("\n")[-4:-2] == [
        "TOKEN    LOG-PROB  UNDER base    KL  base PREFERS",
        '"Arr"       -0.50       -2.50  4.00  "hm"',
    ]


def test_without_colours_marks_say_what_was_turned() -> None:
    text = diff_text(diff_of(report("Arr\n", ", ", "matey"), "pirate", "base"), plain=True)
    assert "[Arr↵|hm], matey" in text.plain
    assert all(str(span.style) == "bold" for span in text.spans)


def test_no_token_reaches_the_terminal_with_control_characters() -> None:
    hostile = "\x1b]0;owned\x07\x1b[31m\u202ex"
    for plain in (True, False):
        text = diff_text(Diff("a", "base", diff_of(report(hostile, hostile), "a", "base").tokens, hostile), plain).plain
        assert not {"\x1b", "\x07", "\u202e"} & set(text)
