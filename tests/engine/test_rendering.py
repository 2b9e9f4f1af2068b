"""Samples as token ids: the ids are those that inference would feed, and what carries loss is what the model writes."""

import json
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from mp13.engine.models.mistral_tokenizer import MistralTokenizer
from mp13.engine.text.chat_template import ChatMessage, chat_token_ids, continuation_ids
from mp13.engine.text.detokenizer import token_texts
from mp13.engine.training.rendering.render import Renderer
from mp13.engine.training.rendering.request import Rendered, RenderRequest
from mp13.engine.training.rendering.work import render_rows
from mp13.engine.training.sample import Message, Sample
from mp13.errors import ConfigError, UnsupportedError
from tests.engine.test_answer_tokens import REASONING, with_template
from tests.engine.test_chat_template import contents, every_template, every_tokenizer, special_ids
from tests.engine.test_mistral3 import write_tekken
from tests.engine.tiny_tokenizers import TEMPLATES, make_tokenizer

TRAINING = Path(__file__).parents[2] / "training" / "starter" / "data"


@cache
def tokenizer_of(kind: str, template: str) -> Any:
    return make_tokenizer(kind, template)


def renderer_of(tokenizer: Any, *more_ends: str) -> Renderer:
    return Renderer(tokenizer, {tokenizer.eos_token_id, *tokenizer.convert_tokens_to_ids(list(more_ends))})


def talk(*said: str, system: str | None = None, unlearned: tuple[int, ...] = ()) -> Sample:
    messages = [Message("user" if i % 2 == 0 else "assistant", text, i not in unlearned) for i, text in enumerate(said)]
    return Sample("a", 1, tuple(messages if system is None else [Message("system", system), *messages]))


def learned(tokenizer: Any, sequence: Rendered) -> list[str]:
    """The texts that carry loss, one for each run of tokens."""
    runs = groupby(zip(sequence.mask, sequence.ids, strict=True), key=lambda token: token[0])
    return [tokenizer.decode([i for _, i in run], skip_special_tokens=False) for is_learned, run in runs if is_learned]


def starts(sequence: Rendered) -> list[int]:
    """Where runs of tokens that carry loss begin."""
    return [i for i, is_learned in enumerate(sequence.mask) if is_learned and not sequence.mask[i - 1]]


def check_against_inference(tokenizer: Any, sample: Sample, sequences: tuple[Rendered, ...]) -> None:
    """Before each answer stand the very ids that the engine would ask with, after answers that are as they were
    learned; and of all answers that are to be learned, each is."""
    said = [ChatMessage(message.role, message.content) for message in sample.messages]
    places = [i for i, m in enumerate(sample.messages) if m.role == "assistant" and m.is_learned]
    for sequence in sequences:
        for start in starts(sequence):
            place = places.pop(0)
            assert list(sequence.ids[:start]) == chat_token_ids(tokenizer, said[:place])
            end = next((i for i in range(start, len(sequence.ids)) if not sequence.mask[i]), len(sequence.ids))
            said[place] = ChatMessage("assistant", said[place].content, sequence.ids[start:end])
    assert places == []


SAMPLES = [
    talk("hello", "the dog"), talk("hello", "the dog", "a", "b c", "the", "fox"), talk("a", "b", "c", "d", system="s"),
    talk("<|im_end|>", "</s>x<|im_end|>", "[INST]", "<s>"), talk("  a ", "b \n", "\n\nc", "d"),
    talk("a", "b", "c", "d", "e", "f", unlearned=(3,)), talk("日本", "é 👩‍👩‍👧", "\ue000", "\ue001\ue000"),
]  # fmt: skip


@every_tokenizer
@every_template
@pytest.mark.parametrize("sample", SAMPLES, ids=range(len(SAMPLES)))
def test_what_is_fed_is_what_inference_would_feed(kind: str, template: str, sample: Sample) -> None:
    tokenizer = tokenizer_of(kind, template)
    sequences = renderer_of(tokenizer).render(sample)
    check_against_inference(tokenizer, sample, sequences)
    answers = [m.content for m in sample.messages if m.role == "assistant" and m.is_learned]
    texts = [text for sequence in sequences for text in learned(tokenizer, sequence)]
    assert [text.split("<|", 1)[0].split() for text in texts if "<|" not in "".join(answers)] == [
        answer.split() for answer in answers if "<|" not in "".join(answers)
    ] or template in ("mistral", "gemma")  # which end with other marks
    ends = [special_ids(tokenizer, [i for i, m in zip(s.ids, s.mask, strict=True) if m]) for s in sequences]
    assert sum(map(len, ends)) == len(answers)  # one for each, and none that somebody typed


@settings(max_examples=150)
@given(
    st.lists(st.tuples(contents, contents.filter(str.strip), st.booleans()), min_size=1, max_size=4),
    st.none() | contents,
    st.sampled_from([name for name in TEMPLATES if name not in ("qwen3",)]),
)
def test_whatever_is_said_it_is_what_inference_would_feed(
    exchanges: list[tuple[str, str, bool]], system: str | None, template: str
) -> None:
    tokenizer = tokenizer_of("byte-level", template)
    said = [text for asked, answered, _ in exchanges for text in (asked, answered)]
    unlearned = tuple(2 * n + 1 for n, exchange in enumerate(exchanges) if not exchange[2])
    sample = talk(*said, system=system, unlearned=unlearned)
    check_against_inference(
        tokenizer, sample, renderer_of(tokenizer).render(sample) if any(e[2] for e in exchanges) else ()
    )


@pytest.mark.parametrize(
    ("template", "first", "second"),
    [
        ("chatml", "the dog<|im_end|>", "c<|im_end|>"), ("llama3", "the dog<|eot_id|>", "c<|eot_id|>"),
        ("gemma", "the dog<end_of_turn>", "c<end_of_turn>"), ("mistral", " the dog</s>", " c</s>"),
        ("phi3", "the dog<|end|>", "c<|end|>"), ("smollm", "the dog<|im_end|>", "c<|im_end|>"),
    ],
)  # fmt: skip
def test_a_conversation_is_one_sequence_and_each_answer_carries_loss_with_its_end(
    template: str, first: str, second: str
) -> None:
    tokenizer = tokenizer_of("byte-level", template)
    (sequence,) = renderer_of(tokenizer).render(talk("hello", "the dog", "b", "c"))
    assert learned(tokenizer, sequence) == [first, second]
    rows = [{"role": m.role, "content": m.content} for m in talk("hello", "the dog", "b", "c").messages]
    whole = tokenizer.apply_chat_template(rows, tokenize=False)
    assert "".join(tokenizer.decode(sequence.ids).split()) == "".join(whole.split())


def test_an_answer_of_weight_0_is_read_and_what_follows_the_last_learned_one_is_not() -> None:
    tokenizer = tokenizer_of("byte-level", "chatml")
    (sequence,) = renderer_of(tokenizer).render(talk("a", "the dog", "b", "the fox", "c", "d", unlearned=(1, 5)))
    assert learned(tokenizer, sequence) == ["the fox<|im_end|>"]
    assert "the dog" in tokenizer.decode(sequence.ids) and "\nc" not in tokenizer.decode(sequence.ids)


def test_where_the_template_takes_reasoning_out_of_earlier_answers_each_is_a_sequence_of_its_own() -> None:
    tokenizer = with_template(REASONING)
    thought = [f"<think>\n{n}\n</think>\n\nthe fox" for n in "xyz"]
    sample = talk("a", thought[0], "b", thought[1], "c", thought[2])
    sequences = renderer_of(tokenizer).render(sample)
    assert [learned(tokenizer, sequence) for sequence in sequences] == [[f"{text}<|im_end|>"] for text in thought]
    assert ["<think>" in tokenizer.decode(sequence.ids[: starts(sequence)[0]]) for sequence in sequences] == [False] * 3
    check_against_inference(tokenizer, sample, sequences)


def test_a_template_without_ends_is_given_the_models_own_one() -> None:
    tokenizer = tokenizer_of("byte-level", "alpaca")
    renderer = renderer_of(tokenizer)
    sequences = renderer.render(talk("a", "the dog", "b", "c"))
    assert [learned(tokenizer, sequence) for sequence in sequences] == [["the dog<|im_end|>"], ["c<|im_end|>"]]
    assert all(sequence.ids[-1] == tokenizer.eos_token_id for sequence in sequences)
    (note,) = renderer.notes
    assert note.startswith("the chat template writes no token behind an answer; 2 answers end with '<|im_end|>'")


def test_an_end_at_which_the_model_does_not_stop_is_noted() -> None:
    tokenizer = tokenizer_of("byte-level", "llama3")
    renderer = renderer_of(tokenizer)
    renderer.render(talk("a", "b", "c", "d"))
    (note,) = renderer.notes
    assert note.startswith("the chat template ends 2 answers with '<|eot_id|>', at which this model does not stop")
    knowing = renderer_of(tokenizer, "<|eot_id|>")
    knowing.render(talk("a", "b"))
    assert knowing.notes == ()


def test_all_tokens_but_the_first_carry_loss_if_that_is_asked_for() -> None:
    for template in ("chatml", "alpaca"):
        tokenizer = tokenizer_of("byte-level", template)
        (sequence,) = renderer_of(tokenizer).render(talk("a", "b", "c", "d"), "all")
        assert sequence.ids == renderer_of(tokenizer).render(talk("a", "b", "c", "d"))[-1].ids
        assert sequence.mask == (False, *[True] * (len(sequence.ids) - 1))


class TestTexts:
    @every_tokenizer
    def test_a_text_is_learned_whole_with_the_token_that_ends_it(self, kind: str) -> None:
        tokenizer = tokenizer_of(kind, "chatml")
        for loss in ("assistant", "all"):
            (sequence,) = renderer_of(tokenizer).render(Sample("a", 1, text="the dog"), loss)
            assert list(sequence.ids) == [*tokenizer("the dog")["input_ids"], tokenizer.eos_token_id]
            assert sequence.mask == (False, *[True] * (len(sequence.ids) - 1))

    @every_tokenizer
    def test_a_completion_is_learned_behind_its_prompt_as_the_engine_judges_it(self, kind: str) -> None:
        tokenizer = tokenizer_of(kind, "chatml")
        (sequence,) = renderer_of(tokenizer).render(Sample("a", 1, prompt="the", text=" dog <|im_end|>"))
        before, text = tokenizer("the")["input_ids"], continuation_ids(tokenizer, " dog <|im_end|>")
        assert list(sequence.ids) == [*before, *text, tokenizer.eos_token_id]
        assert sequence.mask == (*[False] * len(before), *[True] * (len(text) + 1))

    def test_a_text_that_was_rendered_already_keeps_its_special_tokens_and_gets_no_second_end(self) -> None:
        tokenizer = tokenizer_of("byte-level", "chatml")
        renderer = renderer_of(tokenizer)
        (sequence,) = renderer.render(Sample("a", 1, text="<s>the dog<|im_end|>"))
        assert special_ids(tokenizer, sequence.ids) == tokenizer.convert_tokens_to_ids(["<s>", "<|im_end|>"])
        (note,) = renderer.notes
        assert note.startswith("1 texts or prompts spell special tokens ('<s>')")

    def test_without_any_end_it_cannot_be_learned(self) -> None:
        tokenizer = make_tokenizer("byte-level")
        tokenizer.eos_token = None
        with pytest.raises(ConfigError, match="names no token that ends a text"):
            Renderer(tokenizer, ()).render(Sample("a", 1, text="x"))
        (sequence,) = Renderer(tokenizer, (7, 5)).render(Sample("a", 1, text="x"))
        assert sequence.ids[-1] == 5


@pytest.mark.parametrize("version", ["v3", "v7", "v13"])
def test_mistral_commons_prompts_are_learned_as_they_are_fed(version: str, tmp_path: Path) -> None:
    tokenizer = MistralTokenizer(write_tekken(tmp_path, version))
    sample = talk("Hello", "One </s>", "and?", "Two", system="Be brief.")
    sequences = Renderer(tokenizer, {tokenizer.eos_token_id}).render(sample)
    check_against_inference(tokenizer, sample, sequences)
    answers = [learned(tokenizer, sequence) for sequence in sequences]
    assert [text.strip() for texts in answers for text in texts] == ["One </s></s>", "Two</s>"]
    assert len(sequences) == (2 if version == "v3" else 1)  # which puts the system prompt into the last question


def test_the_starters_training_data_is_rendered_by_its_own_template(starter_model: Path) -> None:
    """What is learned is each answer and its end, of all rows, and nothing else."""
    tokenizer = AutoTokenizer.from_pretrained(starter_model)
    renderer = Renderer(tokenizer, {tokenizer.eos_token_id})
    rows = [json.loads(line) for line in (TRAINING / "pirate_train.jsonl").read_text("utf-8").splitlines()]
    talks = [row["messages"] for row in rows if "messages" in row]
    for messages in talks:
        sample = Sample("a", 1, tuple(Message(m["role"], m["content"]) for m in messages))
        (sequence,) = renderer.render(sample)
        answers = [f"{m['content']}<|im_end|>" for m in messages if m["role"] == "assistant"]
        assert learned(tokenizer, sequence) == answers
        assert tokenizer.decode(sequence.ids) == tokenizer.apply_chat_template(messages, tokenize=False)
    assert renderer.notes == ()
    assert len(talks) > 700


@every_tokenizer
@pytest.mark.parametrize("text", ["the dog", "日本 é 👩‍👩‍👧 x", "  a\n\n b\t", "", "\ufffd\ufffd", "👩" * 12])
def test_what_tokens_show_is_the_whole_text_when_it_is_joined(kind: str, text: str) -> None:
    tokenizer = tokenizer_of(kind, "chatml")
    ids = tokenizer(f"<|im_start|>user\n{text}<|im_end|>\n")["input_ids"]
    shown = token_texts(tokenizer, ids, shows_special=True)
    assert len(shown) == len(ids)
    assert "".join(shown) == tokenizer.decode(ids, skip_special_tokens=False)


class TestFile:
    def model(self, folder: Path, template: str | None = TEMPLATES["chatml"]) -> str:
        """A tokenizer and a configuration, and no weights at all."""
        tokenizer = make_tokenizer("byte-level")
        tokenizer.chat_template = template
        tokenizer.save_pretrained(folder / "model")
        config = {"model_type": "llama", "max_position_embeddings": 96}
        (folder / "model" / "config.json").write_text(json.dumps(config))
        return str(folder / "model")

    def rows(self, tmp_path: Path, *samples: Sample) -> str:
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(sample.to_line() + "\n" for sample in samples), encoding="utf-8")
        return str(path)

    def test_it_is_rendered_line_by_line_and_no_weights_are_needed(self, tmp_path: Path) -> None:
        samples = (
            talk("a", "b", unlearned=()),
            Sample("b", 3, text="x\u2028y\x85"),
            Sample("c", 4, prompt="p", text="t"),
        )
        told: list[tuple[str, float | None]] = []
        report = render_rows(
            RenderRequest(self.model(tmp_path), self.rows(tmp_path, *samples), with_tokens=True),
            lambda stage, fraction: told.append((stage, fraction)),
        )
        tokenizer = tokenizer_of("byte-level", "chatml")
        expected = [renderer_of(tokenizer).render(sample) for sample in samples]
        for found, sequences in zip(report.samples, expected, strict=True):
            assert [sequence.ids for sequence in found.sequences] == [sequence.ids for sequence in sequences]
            assert found.lengths == tuple(len(sequence.ids) for sequence in sequences)
        assert (report.max_position, report.problems) == (96, ())
        assert told == [("tokenizer", None), ("counting tokens", 0.0)]

    def test_what_cannot_be_rendered_is_told_by_its_number(self, tmp_path: Path) -> None:
        odd = Sample("a", 1, (Message("user", "a"), Message("assistant", "b")))
        model = self.model(tmp_path, TEMPLATES["qwen3"])
        thought = talk("a", "<think>x</think>b")
        report = render_rows(RenderRequest(model, self.rows(tmp_path, odd, thought, odd)), lambda *_: None)
        assert [problem.sample for problem in report.problems] == [1]
        assert len(report.samples) == 2
        report = render_rows(RenderRequest(model, self.rows(tmp_path, *[thought] * 30)), lambda *_: None)
        assert len(report.problems) == 20

    def test_a_model_without_a_template_is_refused_for_messages_alone(self, tmp_path: Path) -> None:
        model = self.model(tmp_path, None)
        with pytest.raises(UnsupportedError, match="no chat template"):
            render_rows(RenderRequest(model, self.rows(tmp_path, talk("a", "b"))), lambda *_: None)
        report = render_rows(RenderRequest(model, self.rows(tmp_path, Sample("a", 1, text="x"))), lambda *_: None)
        assert report.samples[0].lengths == (2,)


@given(st.text(min_size=1), st.lists(st.tuples(st.text(), st.booleans()), max_size=4), st.integers(1, 10**9))
def test_a_sample_goes_through_a_line(source: str, said: list[tuple[str, bool]], line: int) -> None:
    messages = [Message("assistant", text, is_learned) for text, is_learned in said]
    for sample in (
        Sample(source, line, (Message("user", "a"), *messages)),
        Sample(source, line, prompt="p", text=source),
        Sample(source, line, text=source),
    ):
        assert Sample.from_line(sample.to_line()) == sample
        assert "\n" not in sample.to_line()
