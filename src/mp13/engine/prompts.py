"""Prompts as token ids: in the words of the mix they are for, and checked against vocabulary and context."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

from mp13.engine.adapters.adapter_text import MixText, mix_text
from mp13.engine.adapters.manager import AdapterManager
from mp13.engine.request import Prompting
from mp13.engine.text.chat_template import ChatMessage, begun_ids, continuation_ids
from mp13.errors import ConfigError, ContextError

Prompt = str | list[int] | list[ChatMessage]


@dataclass(frozen=True)
class ReadPrompt:
    """A prompt as tokens. The last `num_given` of them are the answer's own, which was cut off and goes on."""

    token_ids: list[int]
    num_given: int = 0
    prompting: Prompting | None = None
    is_past: bool = False  # no answer follows it, but a next turn

    def check_fits(self, max_model_len: int) -> None:
        """Raises ContextError where the context has no room for a token behind it."""
        if len(self.token_ids) >= max_model_len:
            what = "the prompt and the answer that goes on have" if self.num_given else "the prompt has"
            raise ContextError(
                f"{what} {len(self.token_ids)} tokens, but the context holds {max_model_len} including the "
                "answer; shorten it, start a new conversation, or raise max_model_len"
            )


class PromptReader:
    def __init__(self, tokenizer: Any, adapters: AdapterManager, vocab_size: int) -> None:
        self._tokenizer = tokenizer
        self._adapters = adapters
        self._vocab_size = vocab_size

    def text_of(self, members: tuple[tuple[str, str, float], ...]) -> MixText:
        """The template, tokens and system prompt that a mix of these members reads and writes with."""
        return mix_text(self._tokenizer, [(name, weight, self._adapters.text_of(name)) for name, _, weight in members])

    def read(self, prompt: Prompt, text: MixText, ending: Collection[int]) -> ReadPrompt:
        """The prompt of an answer. Messages that end with an answer ask for more of it: `ending` are the tokens that
        would have ended it.

        Raises:
            UnsupportedError, ConfigError: the prompt is empty, has no such form, or has an unknown token id.
        """
        if (begun := _last_answer(prompt)) is None:
            return self._checked(prompt, *text.token_ids(prompt))
        if len(prompt) == 1:
            raise ConfigError("the conversation is an answer and nothing else; give the prompt that it answers")
        self._check_vocabulary(begun.token_ids or ())  # before it meets the tokenizer
        token_ids, prompting = text.token_ids(prompt[:-1])
        given = begun_ids(text.tokenizer, begun, ending)
        return self._checked(prompt, token_ids + given, prompting, len(given))

    def read_past(self, prompt: Prompt, text: MixText) -> ReadPrompt:
        """What is to be computed before it is asked for. Messages that end with an answer are a conversation's past:
        what a next turn's prompt will begin with. Raises as `read` does."""
        is_past = _last_answer(prompt) is not None
        return replace(self._checked(prompt, *text.token_ids(prompt, is_past=is_past)), is_past=is_past)

    def judged_ids(self, prompt: Prompt | None, answer: list[int] | str, mix: str) -> tuple[list[int], int, Any]:
        """Prompt and answer as tokens, where those to be judged begin (the answer, or without a prompt its second
        token), and the tokenizer. All is as `mix` would have it.

        Raises:
            MixError, ConfigError: the mix or the prompt cannot be used, or the answer is empty.
        """
        if not answer:
            raise ConfigError("the answer is empty; there is nothing to judge")
        text = self.text_of(self._adapters.resolve(mix)[1])
        if prompt is None:
            return text.token_ids(answer)[0], 1, text.tokenizer
        before = text.token_ids(prompt)[0]
        if isinstance(answer, str):
            answer = continuation_ids(text.tokenizer, answer)
        return before + answer, len(before), text.tokenizer

    def check_judged(self, token_ids: list[int], start: int, max_model_len: int) -> None:
        """Raises ConfigError or ContextError for a text that cannot be judged from `start` on."""
        if not token_ids:
            raise ConfigError("the text has no tokens; there is nothing to judge")
        if not 1 <= start <= len(token_ids):
            raise ConfigError(f"start = {start} cannot be used; give 1 to {len(token_ids)}, the length of the text")
        self._check_vocabulary(token_ids)
        if len(token_ids) > max_model_len:
            raise ContextError(f"{len(token_ids)} tokens are over max_model_len = {max_model_len}; cut the text")

    def _checked(
        self, prompt: Prompt, token_ids: list[int], prompting: Prompting | None, num_given: int = 0
    ) -> ReadPrompt:
        if not token_ids:
            raise ConfigError(f"prompt {prompt!r} is empty; give at least one token")
        self._check_vocabulary(token_ids)
        return ReadPrompt(token_ids, num_given, prompting)

    def _check_vocabulary(self, token_ids: Collection[int]) -> None:
        if wrong := [t for t in token_ids if not (isinstance(t, int) and 0 <= t < self._vocab_size)]:
            raise ConfigError(f"token id {wrong[0]!r} is not in the vocabulary of {self._vocab_size} tokens")


def _last_answer(prompt: Prompt) -> ChatMessage | None:
    """The answer that messages end with; None where they ask for one, or the prompt is none."""
    last = prompt[-1] if prompt else None
    return last if isinstance(last, ChatMessage) and last.role == "assistant" else None
