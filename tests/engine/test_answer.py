"""When an answer ends, why, what its text is, and what it cost."""

from typing import Any

import pytest

from mp13 import LLM, SamplingParams
from mp13.engine.request import RequestOutput
from mp13.engine.scheduling.sequence import Sequence
from mp13.engine.text.answer import Answer
from tests.engine.scripted import script
from tests.engine.tiny_models import END_OF_TEXT, IM_END, IM_START, tiny_model, tiny_tokenizer

TOKENIZER = tiny_tokenizer()
EOS = IM_END
MAX_LEN = 40


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> LLM:
    folder = tiny_model(tmp_path_factory.mktemp("model"))
    return LLM(folder, dtype="float32", kv_cache_memory="1MiB", max_model_len=MAX_LEN)


def tokens(text: str) -> list[int]:
    ids: list[int] = TOKENIZER(text, add_special_tokens=False)["input_ids"]
    return ids


X = tokens("x")[0]


def answer(llm: LLM, said: list[int], **params: Any) -> RequestOutput:
    """The output of a request whose model says `said`, then "x" for ever; and what was streamed must be its text."""
    streamed: list[tuple[int, str]] = []
    with script(said, otherwise=X):
        [output] = llm.generate(
            [[5, 0]], SamplingParams(**{"temperature": 0, "max_tokens": 12, **params}),
            on_token=lambda index, token_id, text: streamed.append((token_id, text)),
        )  # fmt: skip
    assert [token_id for token_id, _ in streamed] == output.token_ids
    assert "".join(text for _, text in streamed) == output.text
    assert output.metrics.generated_tokens == len(output.token_ids)
    return output


def test_eos_ends_the_answer_and_is_in_its_tokens_but_not_in_its_text(llm: LLM) -> None:
    output = answer(llm, [*tokens("hello"), EOS])
    assert (output.text, output.finish_reason) == ("hello", "stop")
    assert output.token_ids == [*tokens("hello"), EOS]


def test_an_answer_may_be_nothing_but_eos(llm: LLM) -> None:
    output = answer(llm, [EOS])
    assert (output.text, output.token_ids, output.finish_reason) == ("", [EOS], "stop")


def test_max_tokens_cuts_the_answer(llm: LLM) -> None:
    output = answer(llm, tokens("hello"), max_tokens=5)
    assert (output.text, output.finish_reason) == ("hello" + "x" * (5 - len(tokens("hello"))), "length")
    assert len(output.token_ids) == 5


def test_one_token_is_enough_to_ask_for(llm: LLM) -> None:
    output = answer(llm, [X], max_tokens=1)
    assert (output.text, output.finish_reason, output.metrics.tokens_per_s) == ("x", "length", 0.0)


def test_eos_as_the_last_allowed_token_is_a_stop(llm: LLM) -> None:
    assert answer(llm, [X, X, EOS], max_tokens=3).finish_reason == "stop"


def test_the_context_that_is_full_cuts_the_answer(llm: LLM) -> None:
    output = answer(llm, [], max_tokens=1000)
    assert (len(output.token_ids), output.finish_reason) == (MAX_LEN - 2, "length")


def test_an_ignored_eos_goes_on_and_leaves_no_text(llm: LLM) -> None:
    output = answer(llm, [X, EOS, X, EOS, X], max_tokens=5, ignore_eos=True)
    assert (output.text, output.finish_reason, output.token_ids.count(EOS)) == ("xxx", "length", 2)


def test_a_stop_token_ends_the_answer_and_is_not_in_its_text(llm: LLM) -> None:
    [world] = tokens(" the")
    output = answer(llm, [*tokens("hello"), world, X], stop_token_ids=(world,))
    assert (output.text, output.finish_reason, output.token_ids[-1]) == ("hello", "stop", world)


def test_a_stop_token_ends_the_answer_though_eos_is_ignored(llm: LLM) -> None:
    output = answer(llm, [X, EOS, X, IM_START], stop_token_ids=(IM_START,), ignore_eos=True)
    assert (output.text, output.finish_reason, len(output.token_ids)) == ("xx", "stop", 4)


def test_another_special_token_neither_ends_the_answer_nor_shows(llm: LLM) -> None:
    output = answer(llm, [X, IM_START, X, EOS])
    assert (output.text, len(output.token_ids)) == ("xx", 4)


def test_a_stop_string_ends_the_answer_within_a_token(llm: LLM) -> None:
    [the] = tokens(" the")
    output = answer(llm, [X, the, X], stop=("h",))
    assert (output.text, output.finish_reason, output.token_ids) == ("x t", "stop", [X, the])


def test_a_stop_string_ends_the_answer_across_tokens(llm: LLM) -> None:
    said = tokens("ab###cd")
    assert len(said) == 7
    output = answer(llm, said, stop=("###", "zzz"))
    assert (output.text, output.finish_reason) == ("ab", "stop")
    assert output.token_ids == said[:5]


def test_a_stop_string_inside_a_character_of_several_tokens_is_found(llm: LLM) -> None:
    output = answer(llm, tokens("ab🛑cd"), stop=("🛑",))
    assert (output.text, output.finish_reason) == ("ab", "stop")


def test_what_only_looked_like_a_stop_string_is_shown_in_the_end(llm: LLM) -> None:
    assert answer(llm, [*tokens("ab##"), EOS], stop=("###",)).text == "ab##"
    assert answer(llm, tokens("ab##"), stop=("###",), max_tokens=4).text == "ab##"


def test_half_a_character_is_shown_when_the_answer_is_cut_there(llm: LLM) -> None:
    output = answer(llm, tokens("a😀"), max_tokens=3)
    assert (output.text, output.finish_reason) == ("a\ufffd", "length")


def test_a_stop_string_of_a_broken_character_still_cuts_the_text(llm: LLM) -> None:
    output = answer(llm, [*tokens("a😀")[:3], EOS], stop=("\ufffd",))
    assert (output.text, output.finish_reason) == ("a", "stop")


@pytest.mark.parametrize("ending", [EOS, IM_START])
def test_until_min_tokens_neither_eos_nor_a_stop_token_is_drawn(llm: LLM, ending: int) -> None:
    output = answer(llm, [ending] * 12, min_tokens=4, stop_token_ids=(IM_START,))
    assert output.token_ids == [X, X, X, X, ending]
    assert (output.text, output.finish_reason) == ("xxxx", "stop")


def test_until_min_tokens_a_stop_string_is_text(llm: LLM) -> None:
    output = answer(llm, tokens("a#b#c"), stop=("#",), min_tokens=4)
    assert (output.text, output.finish_reason, len(output.token_ids)) == ("a#b", "stop", 4)


def test_min_tokens_equal_to_max_tokens_gives_exactly_that_many(llm: LLM) -> None:
    output = answer(llm, [EOS] * 12, min_tokens=6, max_tokens=6)
    assert (output.token_ids, output.finish_reason) == ([X] * 6, "length")


def test_each_request_of_a_batch_ends_by_itself(llm: LLM) -> None:
    scripts = [[X, EOS], tokens("hello"), [*tokens("a###")], []]
    params = [
        SamplingParams(temperature=0, max_tokens=9), SamplingParams(temperature=0, max_tokens=2),
        SamplingParams(temperature=0, max_tokens=9, stop=("##",)), SamplingParams(temperature=0, max_tokens=4),
    ]  # fmt: skip
    with script(*scripts, otherwise=X):
        outputs = llm.generate([[9, i] for i in range(4)], params)
    assert [output.text for output in outputs] == ["x", "hello"[: len(outputs[1].text)], "a", "xxxx"]
    assert [output.finish_reason for output in outputs] == ["stop", "length", "stop", "length"]


def test_metrics_tell_what_a_request_cost(llm: LLM) -> None:
    prompt = [*range(30, 50), 0]
    with script([X], otherwise=X):
        first, again = (llm.generate([prompt], SamplingParams(temperature=0, max_tokens=6))[0] for _ in range(2))
    assert (first.metrics.prompt_tokens, first.metrics.generated_tokens, first.metrics.cached_tokens) == (21, 6, 0)
    assert again.metrics.cached_tokens == 16
    assert first.metrics.ttft_s > 0 and first.metrics.tokens_per_s > 0
    assert first.adapters == "base"


def run(ids: list[int], times: list[float], started: float = 10.0) -> RequestOutput:
    made = Answer(TOKENIZER, SamplingParams(max_tokens=99), {EOS}, "a+b", started)
    seq = Sequence("r", [1, 2, 3], SamplingParams())
    seq.num_cached_tokens = 2
    for token_id, now in zip(ids, times, strict=True):
        made.add(token_id, full=False, now=now)
        seq.token_ids.append(token_id)
    return made.output(seq, "abort")


def test_times_are_those_of_the_clock() -> None:
    metrics = run([X, X, X], [10.5, 11.0, 12.5]).metrics
    assert (metrics.ttft_s, metrics.tokens_per_s) == (0.5, 1.0)  # two tokens in two seconds, after the first
    assert (metrics.prompt_tokens, metrics.cached_tokens, metrics.generated_tokens) == (3, 2, 3)


def test_an_answer_aborted_before_its_first_token_cost_no_time() -> None:
    output = run([], [])
    assert (output.text, output.token_ids, output.metrics.ttft_s, output.metrics.tokens_per_s) == ("", [], 0.0, 0.0)


def test_an_aborted_answer_keeps_the_text_that_was_held_back() -> None:
    assert run(tokens("a😀")[:3], [11, 11, 11]).text == "a\ufffd"


def test_the_tokenizer_is_the_one_the_tests_think_it_is() -> None:
    assert tuple(TOKENIZER.convert_tokens_to_ids(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])) == (
        END_OF_TEXT,
        IM_START,
        IM_END,
    )
