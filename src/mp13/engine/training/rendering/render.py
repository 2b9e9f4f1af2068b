"""Samples as token ids, and which of them are learned. What is fed is what inference would feed: before an answer the
prompt that asks for it, then what the model is to write itself, the token that ends it included.

A conversation is one sequence as long as the template only ever adds to what it has shown. Where it shows an answer in
another way once the conversation goes on, as without its reasoning, each answer is a sequence of its own, behind its
own prompt.
"""

from collections import Counter
from collections.abc import Collection, Sequence
from itertools import islice
from typing import Any

from mp13.engine.text.answer_tokens import answer_tokens
from mp13.engine.text.chat_template import ChatMessage, continuation_ids
from mp13.engine.training.rendering.request import Loss, Rendered
from mp13.engine.training.sample import Sample
from mp13.errors import ConfigError


class Renderer:
    """`eos_token_ids` are the tokens that end the model's answers, by its own files."""

    def __init__(self, tokenizer: Any, eos_token_ids: Collection[int]) -> None:
        self._tokenizer = tokenizer
        self._eos_token_ids = frozenset(eos_token_ids)
        self._special = frozenset(i for i, token in tokenizer.added_tokens_decoder.items() if token.special)
        self._other_ends: Counter[int] = Counter()  # answers by the token they end with, which the model does not know
        self._endless = 0
        self._spelled: Counter[int] = Counter()  # texts by a special token that they spell

    def render(self, sample: Sample, loss: Loss = "assistant") -> tuple[Rendered, ...]:
        """The sample's sequences.

        Raises:
            ConfigError: the template cannot show it, or the model has no token that ends a text.
            UnsupportedError: the model has no chat template.
        """
        made = self._conversation(sample) if sample.messages else [self._text(sample)]
        if loss == "assistant":
            return tuple(made)
        whole = made[-1].ids  # the last prompt holds all that was said before
        return (Rendered(whole, (False, *[True] * (len(whole) - 1))),)

    @property
    def notes(self) -> tuple[str, ...]:
        """What is odd about all that was rendered so far."""
        notes = [
            f"the chat template ends {count:,} answers with {self._name(token)}, at which this model does not stop by "
            "its own files; the adapter has to bring that token as its eos_token"
            for token, count in self._other_ends.items()
        ]
        if self._endless:
            notes.append(
                f"the chat template writes no token behind an answer; {self._endless:,} answers end with "
                f"{self._name(self._end)}, each in a sequence of its own"
            )
        if self._spelled:
            named = ", ".join(self._name(token) for token, _ in self._spelled.most_common(3))
            notes.append(
                f"{self._spelled.total():,} texts or prompts spell special tokens ({named}) and are read with them as "
                "such, as a plain prompt is"
            )
        return tuple(notes)

    def _conversation(self, sample: Sample) -> list[Rendered]:
        said = [ChatMessage(m.role, m.content) for m in sample.messages]
        made: list[_Growing] = []
        for place, message in enumerate(sample.messages):
            if message.role != "assistant" or not message.is_learned:
                continue
            found = answer_tokens(self._tokenizer, said[: place + 1])
            self._count_end(found.answer[-1], found.has_end)
            answer = found.answer if found.has_end else (*found.answer, self._end)
            if not made or not made[-1].goes_on_with(found.prompt):
                made.append(_Growing())
            made[-1].take(found.prompt, answer, found.rest)
            said[place] = ChatMessage(message.role, message.content, answer)
        return [growing.rendered() for growing in made]

    def _text(self, sample: Sample) -> Rendered:
        before = self._plain(sample.prompt) if sample.prompt else []
        text = continuation_ids(self._tokenizer, sample.text) if sample.prompt else self._plain(sample.text)
        end = [] if text and text[-1] in self._eos_token_ids else [self._end]
        mask = [False] * len(before) + [True] * (len(text) + len(end))
        return Rendered((*before, *text, *end), (False, *mask[1:]))

    def _plain(self, text: str) -> list[int]:
        """As a prompt that is no messages."""
        alone = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        self._spelled.update(islice((token for token in alone if token in self._special), 1))
        ids: list[int] = self._tokenizer(text)["input_ids"]
        return ids

    @property
    def _end(self) -> int:
        """The token that ends a text for which no template has one."""
        own = self._tokenizer.eos_token_id
        if own is None and not self._eos_token_ids:
            raise ConfigError("this model names no token that ends a text; set eos_token_id in its config.json")
        return int(own if own is not None else min(self._eos_token_ids))

    def _count_end(self, token: int, has_end: bool) -> None:
        if not has_end:
            self._endless += 1
        elif token not in self._eos_token_ids:
            self._other_ends[token] += 1

    def _name(self, token: int) -> str:
        return repr(self._tokenizer.decode([token], skip_special_tokens=False))


class _Growing:
    """One sequence: prompts and answers that follow on each other, and at last what the template writes behind them."""

    def __init__(self) -> None:
        self._ids: tuple[int, ...] = ()
        self._answers: list[range] = []
        self._rest: tuple[int, ...] = ()

    def goes_on_with(self, prompt: Sequence[int]) -> bool:
        return tuple(prompt[: len(self._ids)]) == self._ids

    def take(self, prompt: tuple[int, ...], answer: tuple[int, ...], rest: tuple[int, ...]) -> None:
        self._answers.append(range(len(prompt), len(prompt) + len(answer)))
        self._ids, self._rest = prompt + answer, rest

    def rendered(self) -> Rendered:
        ids = self._ids + self._rest
        learned = {place for answer in self._answers for place in answer}
        return Rendered(ids, tuple(place in learned and place > 0 for place in range(len(ids))))
