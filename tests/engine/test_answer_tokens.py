"""Which tokens of a conversation are the answer's: what the model writes behind the prompt that asks for it, no more
and no less, whatever the template."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from mp13.engine.models.mistral_tokenizer import MistralTokenizer
from mp13.engine.text.answer_tokens import AnswerTokens, answer_tokens
from mp13.engine.text.chat_template import ChatMessage, chat_token_ids
from mp13.errors import ConfigError, UnsupportedError
from tests.engine.test_chat_template import contents, every_template, every_tokenizer, special_ids, talk
from tests.engine.test_mistral3 import write_tekken
from tests.engine.tiny_tokenizers import TEMPLATES, make_tokenizer

# As Qwen3 has it: the last answer shows its reasoning, an empty one if it has none; earlier answers show none.
REASONING = (
    "{% for message in messages %}{% set content = message['content'] %}"
    "{% if message['role'] == 'assistant' %}"
    "{% set thought = content.split('</think>')[0].split('<think>')[-1].strip('\n') if '</think>' in content else '' %}"
    "{% set content = content.split('</think>')[-1].lstrip('\n') %}"
    "{% if loop.last %}{% set content = '<think>\n' + thought + '\n</think>\n\n' + content %}{% endif %}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@cache
def tokenizer_of(kind: str, template: str) -> Any:
    return make_tokenizer(kind, template)


def with_template(template: str, kind: str = "byte-level") -> Any:
    tokenizer = make_tokenizer(kind)
    tokenizer.chat_template = template
    return tokenizer


def shown(tokenizer: Any, ids: Sequence[int]) -> str:
    text: str = tokenizer.decode(list(ids), skip_special_tokens=False)
    return text


@pytest.mark.parametrize(
    ("template", "answer", "rest"),
    [
        ("chatml", "the dog<|im_end|>", "\n"), ("smollm", "the dog<|im_end|>", "\n"),
        ("llama3", "the dog<|eot_id|>", ""), ("gemma", "the dog<end_of_turn>", "\n"),
        ("mistral", " the dog</s>", ""), ("phi3", "the dog<|end|>", ""), ("qwen3", "the dog<|im_end|>", "\n"),
    ],
)  # fmt: skip
def test_an_answer_reaches_from_the_prompt_to_the_token_that_ends_it(template: str, answer: str, rest: str) -> None:
    tokenizer = tokenizer_of("byte-level", template)
    found = answer_tokens(tokenizer, talk("hello", "the dog"))
    assert found.prompt == tuple(chat_token_ids(tokenizer, talk("hello")))
    assert (shown(tokenizer, found.answer), shown(tokenizer, found.rest), found.has_end) == (answer, rest, True)


def test_a_template_that_ends_no_answer_is_told_and_what_it_writes_between_answers_is_left_out() -> None:
    tokenizer = tokenizer_of("byte-level", "alpaca")
    found = answer_tokens(tokenizer, talk("hello", "the dog"))
    assert (shown(tokenizer, found.answer), found.rest, found.has_end) == ("the dog", (), False)


@every_tokenizer
@every_template
@pytest.mark.parametrize("said", [("hello", "the dog"), ("a", "b", "c", "  the \n\n fox "), ("same", "same")])
def test_prompt_answer_and_rest_are_the_whole_conversation(kind: str, template: str, said: tuple[str, ...]) -> None:
    tokenizer = tokenizer_of(kind, template)
    found = answer_tokens(tokenizer, talk(*said))
    text = tokenizer.apply_chat_template(
        [{"role": m.role, "content": m.content} for m in talk(*said)], add_generation_prompt=False, tokenize=False
    )
    whole = shown(tokenizer, (*found.prompt, *found.answer, *found.rest))
    if template == "alpaca":  # without what goes on behind the answer
        text = text[: -len("\n\n")]
    if template == "phi3":  # whose tokens swallow the white space behind them
        assert "".join(whole.split()) == "".join(text.split())
    else:
        assert whole == text


@every_tokenizer
@every_template
@pytest.mark.parametrize("last", [True, False], ids=["the last answer", "the one before"])
def test_a_conversation_goes_on_behind_the_answer_as_the_engine_would_ask(kind: str, template: str, last: bool) -> None:
    """With the answer's own ids, as the model would have written them."""
    tokenizer = tokenizer_of(kind, template)
    said = talk("hello", "the dog", "a", "the quick fox")[: 4 if last else 2]
    found = answer_tokens(tokenizer, said)
    answered = [*said[:-1], ChatMessage("assistant", said[-1].content, found.answer)]
    following = tuple(chat_token_ids(tokenizer, [*answered, ChatMessage("user", "go on")]))
    assert following[: len(found.prompt) + len(found.answer)] == found.prompt + found.answer


@every_tokenizer
@every_template
def test_special_tokens_that_somebody_typed_are_text(kind: str, template: str) -> None:
    tokenizer = tokenizer_of(kind, template)
    ordinary, typed = talk("a", "b", system="s"), talk("<|im_end|>a", "b</s><|im_end|>c[INST]", system="<s>")
    (harmless, found) = (answer_tokens(tokenizer, said) for said in (ordinary, typed))
    for part in ("prompt", "answer", "rest"):
        assert special_ids(tokenizer, getattr(found, part)) == special_ids(tokenizer, getattr(harmless, part))
    assert "b</s><|im_end|>c[INST]" in shown(tokenizer, found.answer)


@settings(max_examples=100)
@given(contents, contents.filter(str.strip), st.sampled_from(["chatml", "llama3", "gemma", "mistral", "smollm"]))
def test_whatever_is_said_the_answer_is_all_that_is_not_asked(question: str, answer: str, template: str) -> None:
    tokenizer = tokenizer_of("byte-level", template)
    found = answer_tokens(tokenizer, talk(question, answer))
    (end,) = special_ids(tokenizer, found.answer)
    assert found.answer[-1] == end
    written = shown(tokenizer, found.answer[:-1])
    assert written.strip() == answer.strip()


def test_the_starters_own_template_is_followed(starter_model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(starter_model)
    said = talk("What is the capital of France? <|im_end|>", "Paris.\n<|im_start|>", system="Be brief.")
    found = answer_tokens(tokenizer, said)
    assert found.prompt == tuple(chat_token_ids(tokenizer, said[:-1]))
    assert shown(tokenizer, found.answer) == "Paris.\n<|im_start|><|im_end|>"
    assert special_ids(tokenizer, found.answer) == [tokenizer.eos_token_id]
    said = talk("Who are you?", "SmolLM.")
    found = answer_tokens(tokenizer, said)
    rows = [{"role": message.role, "content": message.content} for message in said]
    text = tokenizer.apply_chat_template(rows, tokenize=False)
    assert [*found.prompt, *found.answer, *found.rest] == tokenizer(text, add_special_tokens=False)["input_ids"]


class TestReasoning:
    def test_the_last_answer_is_learned_with_its_reasoning(self) -> None:
        tokenizer = with_template(REASONING)
        found = answer_tokens(tokenizer, talk("a", "<think>\nhm\n</think>\n\nthe fox"))
        assert shown(tokenizer, found.answer) == "<think>\nhm\n</think>\n\nthe fox<|im_end|>"

    def test_spaces_around_it_may_differ_from_what_is_written(self) -> None:
        tokenizer = with_template(REASONING)
        found = answer_tokens(tokenizer, talk("a", "<think>hm</think>the fox"))
        assert shown(tokenizer, found.answer) == "<think>\nhm\n</think>\n\nthe fox<|im_end|>"

    def test_what_the_template_writes_for_an_answer_without_any_is_the_answers(self) -> None:
        tokenizer = with_template(REASONING)
        found = answer_tokens(tokenizer, talk("a", "think"))
        assert shown(tokenizer, found.answer) == "<think>\n\n</think>\n\nthink<|im_end|>"

    def test_an_answer_is_behind_earlier_ones_without_theirs(self) -> None:
        tokenizer = with_template(REASONING)
        found = answer_tokens(
            tokenizer, talk("a", "<think>\nhm\n</think>\n\nthe fox", "b", "<think>\noh\n</think>\n\nc")
        )
        assert "hm" not in shown(tokenizer, found.prompt)
        assert shown(tokenizer, found.answer) == "<think>\noh\n</think>\n\nc<|im_end|>"

    def test_one_that_the_template_never_shows_cannot_be_learned(self) -> None:
        with pytest.raises(ConfigError, match="does not show this answer as it is written"):
            answer_tokens(tokenizer_of("byte-level", "qwen3"), talk("a", "<think>hm</think>the fox"))

    def test_a_prompt_that_opens_a_reasoning_cannot_be_answered_without(self) -> None:
        tokenizer = with_template(TEMPLATES["phi3"].replace("'<|assistant|>\n'", "'<|assistant|>\n<think>'"))
        with pytest.raises(ConfigError, match="does not begin this answer as it asks for it"):
            answer_tokens(tokenizer, talk("a", "b"))


def test_a_system_prompt_that_the_template_drops_once_there_is_an_answer_is_in_the_prompt_all_the_same() -> None:
    tokenizer = tokenizer_of("byte-level", "mistral")
    found = answer_tokens(tokenizer, talk("hello", "the dog", system="be brief"))
    assert shown(tokenizer, found.prompt) == "<s>[INST] be brief\n\nhello[/INST]"
    assert shown(tokenizer, found.answer) == " the dog</s>"


def test_a_token_that_stands_before_the_answer_does_not_end_it() -> None:
    """As a channel's name does."""
    tokenizer = with_template(
        "{% for m in messages %}{% if m['role'] == 'user' %}<s>{{ m['content'] }}{% else %}"
        "<|assistant|>final<|end|>{{ m['content'] }}</s>{% endif %}{% endfor %}"
    )
    found = answer_tokens(tokenizer, talk("a", "final"))
    assert shown(tokenizer, found.answer) == "<|assistant|>final<|end|>final</s>"


def test_a_template_that_shouts_is_refused_and_one_that_refuses_says_why() -> None:
    with pytest.raises(ConfigError, match="does not show this answer as it is written"):
        answer_tokens(with_template("{% for m in messages %}<s>{{ m['content'] | upper }}{% endfor %}"), talk("A", "b"))
    with pytest.raises(ConfigError, match="roles must alternate"):
        answer_tokens(tokenizer_of("byte-level", "mistral"), [*talk("a"), *talk("b", "c")])
    with pytest.raises(UnsupportedError, match="no chat template"):
        answer_tokens(with_template(""), talk("a", "b"))


class TestMistralCommon:
    @pytest.fixture(params=["v3", "v7", "v13"])
    def tokenizer(self, request: pytest.FixtureRequest, tmp_path: Path) -> MistralTokenizer:
        return MistralTokenizer(write_tekken(tmp_path, request.param))

    @pytest.mark.parametrize("system", [None, "Be brief."])
    def test_an_answer_reaches_from_the_prompt_to_its_end(
        self, tokenizer: MistralTokenizer, system: str | None
    ) -> None:
        said = talk("Hello", "One</s>", "and?", "Two [INST]", system=system)
        found = answer_tokens(tokenizer, said)
        assert found.prompt == tuple(chat_token_ids(tokenizer, said[:-1]))
        assert found.answer[-1] == tokenizer.eos_token_id
        assert tokenizer.decode(found.answer[:-1]).strip() == "Two [INST]"
        assert special_ids(tokenizer, found.answer) == [tokenizer.eos_token_id]

    def test_it_goes_on_as_the_engine_would_ask(self, tokenizer: MistralTokenizer) -> None:
        said = talk("Hello", "One")
        found: AnswerTokens = answer_tokens(tokenizer, said)
        answered = [*said[:-1], ChatMessage("assistant", "One", found.answer), *talk("and?")]
        following = tuple(chat_token_ids(tokenizer, answered))
        assert following[: len(found.prompt) + len(found.answer)] == found.prompt + found.answer
