"""An answer that was cut off goes on from its own tokens, as if it had never been cut; and how long a prompt is."""

from pathlib import Path
from typing import Any

import pytest

from mp13 import LLM, SamplingParams
from mp13.engine.request import RequestOutput
from mp13.engine.text.chat_template import ChatMessage
from mp13.errors import ConfigError, ContextError, MixError
from tests.engine.scripted import script
from tests.engine.tiny_models import HAS_ALORA, IM_END, IM_START, tiny_adapter, tiny_model, tiny_tokenizer

TOKENIZER = tiny_tokenizer()
ASKED = [ChatMessage("system", "be brief"), ChatMessage("user", "hello <|im_end|> there")]
MAX_LEN = 160
DRAWN: dict[str, Any] = {"temperature": 1.0, "seed": 11, "ignore_eos": True}


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> LLM:
    folder = tmp_path_factory.mktemp("continued")
    tiny_model(folder / "model")
    llm = LLM(folder / "model", dtype="float32", kv_cache_memory="256KiB", block_size=4, max_model_len=MAX_LEN)
    llm.load_adapter(tiny_adapter(folder / "a", folder / "model"))
    return llm


def tokens(text: str) -> list[int]:
    ids: list[int] = TOKENIZER(text, add_special_tokens=False)["input_ids"]
    return ids


X = tokens("x")[0]


def ask(llm: LLM, *begun: ChatMessage, mix: str | None = None, **params: Any) -> tuple[RequestOutput, str]:
    """The output, and what was streamed of it."""
    streamed: list[tuple[int, str]] = []
    [output] = llm.chat(
        [[*ASKED, *begun]], SamplingParams(**params), mix, on_token=lambda index, *new: streamed.append(new)
    )
    assert [token_id for token_id, _ in streamed] == output.token_ids[output.continued_at :]
    assert output.metrics.generated_tokens == len(streamed)
    return output, "".join(text for _, text in streamed)


def begun(output: RequestOutput) -> ChatMessage:
    return ChatMessage("assistant", output.text, tuple(output.token_ids))


SHAPES: dict[str, dict[str, Any]] = {
    "at temperature 1": {},
    "with filters": {"top_p": 0.8, "top_k": 40, "min_p": 0.01},
    "with penalties": {"repetition_penalty": 1.3, "presence_penalty": 1.0, "frequency_penalty": 1.5},
    "greedy": {"temperature": 0.0, "repetition_penalty": 1.5, "frequency_penalty": 1.0},
}


@pytest.mark.parametrize("mix", [None, "a:0.5"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_an_answer_cut_anywhere_goes_on_as_the_unbroken_one(llm: LLM, shape: dict[str, Any], mix: str | None) -> None:
    params, length = {**DRAWN, **shape}, 24
    whole, _ = ask(llm, mix=mix, max_tokens=length, **params)
    assert (len(whole.token_ids), whole.continued_at) == (length, 0)
    for cut in (1, 2, 7, 23):
        begin, _ = ask(llm, mix=mix, max_tokens=cut, **params)
        rest, _ = ask(llm, begun(begin), mix=mix, max_tokens=length - cut, **params)
        assert (begin.token_ids, rest.continued_at) == (whole.token_ids[:cut], cut)
        assert (rest.token_ids, rest.text, rest.finish_reason) == (whole.token_ids, whole.text, "length")


def test_it_goes_on_the_same_beside_other_requests_and_from_a_cold_cache(llm: LLM, tmp_path: Path) -> None:
    whole, _ = ask(llm, max_tokens=20, **DRAWN)
    cut = ChatMessage("assistant", "", tuple(whole.token_ids[:6]))
    cold = LLM(tiny_model(tmp_path / "model"), dtype="float32", kv_cache_memory="256KiB", max_num_batched_tokens=7)
    lists = [[*ASKED, cut], ASKED, [ChatMessage("user", "x " * 30)], [*ASKED, cut]]
    outputs = cold.chat(lists, [SamplingParams(max_tokens=14 + 6 * (i == 1), **DRAWN) for i in range(4)])
    assert [outputs[i].token_ids for i in (0, 1, 3)] == [whole.token_ids] * 3


def test_its_metrics_count_what_was_given_as_prompt(llm: LLM) -> None:
    whole, _ = ask(llm, max_tokens=12, **DRAWN)
    rest, _ = ask(llm, begun(whole), max_tokens=5, **DRAWN)
    assert rest.metrics.prompt_tokens == whole.metrics.prompt_tokens + 12
    assert rest.metrics.cached_tokens >= whole.metrics.prompt_tokens  # nothing is computed twice but the last block


def test_log_probabilities_come_with_the_new_tokens_alone(llm: LLM) -> None:
    whole, _ = ask(llm, max_tokens=8, logprobs=1, **DRAWN)
    begin, _ = ask(llm, max_tokens=5, **DRAWN)
    rest, _ = ask(llm, begun(begin), max_tokens=3, logprobs=1, **DRAWN)
    assert whole.logprobs is not None and rest.logprobs is not None
    assert [entry.token_id for entry in rest.logprobs] == whole.token_ids[5:]
    expected = [entry.logprob for entry in whole.logprobs[5:]]
    assert [entry.logprob for entry in rest.logprobs] == pytest.approx(expected, abs=1e-4)


def go_on(llm: LLM, said: list[int], given: ChatMessage, **params: Any) -> tuple[RequestOutput, str]:
    """As `ask`, of a model that says `said` after its generation prompt, then "x" for ever."""
    with script(*[said] * 320, otherwise=X):
        return ask(llm, given, **{"temperature": 0, "max_tokens": 2, **params})


@pytest.mark.parametrize("cut", [2, 3, 4])
def test_a_character_split_by_the_cut_is_whole_in_the_text_and_comes_with_its_last_byte(llm: LLM, cut: int) -> None:
    said = tokens("a😀b")
    assert len(said) == 6
    for content in ("a", "a\ufffd"):  # as it was streamed, and as its end showed it
        given = ChatMessage("assistant", content, tuple(said[:cut]))
        output, streamed = go_on(llm, said, given, max_tokens=6 - cut)
        assert (output.text, streamed, output.token_ids) == ("a😀b", "😀b", said)


def test_a_stop_string_may_begin_before_the_cut(llm: LLM) -> None:
    said = tokens("ab###cd")
    for cut in (3, 4):
        given = ChatMessage("assistant", "ab", tuple(said[:cut]))
        output, streamed = go_on(llm, said, given, max_tokens=9, stop=("###",))
        assert (output.text, streamed, output.finish_reason, output.token_ids) == ("ab", "", "stop", said[:5])
        output, streamed = go_on(llm, [*said[:cut], X], given, max_tokens=1, stop=("###",))
        assert (output.text, streamed) == ("ab" + "#" * (cut - 2) + "x", "#" * (cut - 2) + "x")


def test_an_answer_that_a_stop_string_ended_goes_on_behind_it(llm: LLM) -> None:
    said = tokens("ab#cd#e")
    output, streamed = go_on(llm, said, ChatMessage("assistant", "ab", tuple(said[:3])), max_tokens=9, stop=("#",))
    assert (output.text, streamed, output.token_ids) == ("ab#cd", "cd", said[:6])


def test_what_ended_the_answer_is_taken_off_before_it_goes_on(llm: LLM) -> None:
    said = tokens("hello")
    given = ChatMessage("assistant", "hello", (*said, IM_END))
    output, streamed = go_on(llm, said, given)
    assert (output.text, streamed, output.token_ids) == ("helloxx", "xx", [*said, X, X])
    [the] = tokens(" the")
    given = ChatMessage("assistant", "hello", (*said, the))
    assert go_on(llm, said, given, stop_token_ids=(the,))[0].text == "helloxx"
    assert go_on(llm, [*said, the], given)[0].text == "hello thexx"


def test_a_least_length_is_the_whole_answers(llm: LLM) -> None:
    given = ChatMessage("assistant", "xx", (X, X))
    output, _ = go_on(llm, [IM_END] * 9, given, max_tokens=9, min_tokens=4)
    assert output.token_ids == [X, X, X, X, IM_END]
    output, _ = go_on(
        llm, tokens("a#b#"), ChatMessage("assistant", "a#", tuple(tokens("a#"))), stop=("#",), min_tokens=2
    )
    assert (output.text, output.finish_reason) == ("a#b", "stop")


def test_where_eos_is_ignored_it_is_a_token_like_others(llm: LLM) -> None:
    given = ChatMessage("assistant", "xx", (X, X, IM_END))
    output, _ = go_on(llm, [], given, ignore_eos=True)
    assert (output.token_ids, output.text) == ([X, X, IM_END, X, X], "xxxx")


def test_an_answer_without_tokens_goes_on_from_its_text_in_which_nothing_is_special(llm: LLM) -> None:
    for ids in (None, (), tuple(tokens("another answer"))):  # the last were of a text that somebody has changed since
        output, streamed = go_on(llm, [], ChatMessage("assistant", "so<|im_end|>", ids))
        assert (output.text, streamed) == ("so<|im_end|>xx", "xx")
        assert output.continued_at == len(output.token_ids) - 2 > 3
        assert IM_END not in output.token_ids


def test_an_empty_answer_goes_on_from_its_beginning(llm: LLM) -> None:
    unbroken, _ = ask(llm, max_tokens=6, **DRAWN)
    for ids in (None, (IM_END,)):
        output, _ = ask(llm, ChatMessage("assistant", "", ids), max_tokens=6, **{**DRAWN, "ignore_eos": False})
        assert (output.token_ids, output.continued_at) == (unbroken.token_ids, 0)


@pytest.mark.parametrize(
    ("messages", "error", "sentence"),
    [
        ([ChatMessage("assistant", "hi", (X,))], ConfigError, "is an answer and nothing else; give the prompt"),
        ([*ASKED, ChatMessage("assistant", "", (X, 320))], ConfigError, "token id 320 is not in the vocabulary of 320"),
        ([*ASKED, ChatMessage("assistant", "", (10**12,))], ConfigError, "token id 1000000000000 is not in the"),
        (
            [*ASKED, ChatMessage("assistant", "x" * 200, (X,) * 200)], ContextError,
            r"the prompt and the answer that goes on have 2\d\d tokens, but the context holds 160",
        ),
    ],
)  # fmt: skip
def test_an_answer_that_cannot_go_on_is_refused(
    llm: LLM, messages: list[ChatMessage], error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error, match=sentence):
        llm.chat([messages])


def test_mixes_go_on_with_one_answer_side_by_side(llm: LLM) -> None:
    core, given = llm._core, ChatMessage("assistant", "xx", (X, X))
    ids = core.compare([*ASKED, given], SamplingParams(max_tokens=4, **DRAWN), ["base", "a"])
    ends: dict[str, RequestOutput] = {}
    while core.has_work():
        ends |= {event.request_id: event.output for event in core.step() if hasattr(event, "output")}
    for request_id, mix in zip(ids, ("base", "a"), strict=True):
        assert ends[request_id].token_ids == ask(llm, given, mix=mix, max_tokens=4, **DRAWN)[0].token_ids


@pytest.mark.skipif(not HAS_ALORA, reason="this PEFT has no activated LoRA")
def test_what_an_answer_says_invokes_no_adapter_when_it_goes_on(llm: LLM, tmp_path: Path) -> None:
    tiny_model(tmp_path / "model")
    llm.load_adapter(tiny_adapter(tmp_path / "called", tmp_path / "model", alora_invocation_tokens=[X, X]))
    given = ChatMessage("assistant", "xx", (X, X))
    base, called = (ask(llm, given, mix=mix, max_tokens=6, **DRAWN)[0].token_ids for mix in ("base", "called"))
    assert base == called
    llm.unload_adapter("called")


@pytest.mark.parametrize(
    "last",
    [ChatMessage("user", "and\nnow?"), ChatMessage("assistant", "xx", (X, X, IM_END)), ChatMessage("assistant", "so")],
)
def test_a_prompt_is_counted_as_the_request_would_build_it(llm: LLM, last: ChatMessage) -> None:
    report = llm.count([*ASKED, last])
    output, _ = ask(llm, last, max_tokens=1, temperature=0)
    assert (report.prompt_tokens, report.context_limit) == (output.metrics.prompt_tokens, MAX_LEN)


def test_what_does_not_fit_is_counted_all_the_same(llm: LLM) -> None:
    report = llm.count([ChatMessage("user", "x " * 400)])
    assert report.prompt_tokens > 400 > report.context_limit
    with pytest.raises(ContextError, match=f"the prompt has {report.prompt_tokens} tokens, but the context holds 160"):
        llm.chat([[ChatMessage("user", "x " * 400)]])


def test_a_tokenizer_that_was_saved_with_a_limit_of_its_own_cuts_nothing(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "model")
    limited = tiny_tokenizer()
    limited.model_max_length = 8
    limited._tokenizer.enable_truncation(8)
    limited.save_pretrained(model)
    assert '"max_length": 8' in (model / "tokenizer.json").read_text()
    short = LLM(model, dtype="float32", kv_cache_memory="256KiB", max_model_len=MAX_LEN)
    prompt = [ChatMessage("user", "x " * 30)]
    assert short.count(prompt).prompt_tokens > 60
    assert short.chat([prompt], SamplingParams(max_tokens=1))[0].metrics.prompt_tokens > 60
    assert short.generate(["x " * 30], SamplingParams(max_tokens=1))[0].metrics.prompt_tokens == 60


def test_what_cannot_be_a_prompt_cannot_be_counted(llm: LLM) -> None:
    with pytest.raises(MixError, match="'nobody', which is not loaded"):
        llm.count([*ASKED], "nobody")
    with pytest.raises(ConfigError, match="token id 999"):
        llm.count([*ASKED, ChatMessage("assistant", "", (999, IM_START))])
