"""Prompts as token ids: in the words of the mix they are for, and checked against vocabulary and context."""

from typing import Any

from mp13.engine.adapters.adapter_text import MixText, mix_text
from mp13.engine.adapters.manager import AdapterManager
from mp13.engine.request import Prompting
from mp13.engine.text.chat_template import ChatMessage, continuation_ids
from mp13.errors import ConfigError, ContextError

Prompt = str | list[int] | list[ChatMessage]


class PromptReader:
    def __init__(self, tokenizer: Any, adapters: AdapterManager, vocab_size: int) -> None:
        self._tokenizer = tokenizer
        self._adapters = adapters
        self._vocab_size = vocab_size

    def text_of(self, members: tuple[tuple[str, str, float], ...]) -> MixText:
        """The template, tokens and system prompt that a mix of these members reads and writes with."""
        return mix_text(self._tokenizer, [(name, weight, self._adapters.text_of(name)) for name, _, weight in members])

    def token_ids(
        self, prompt: Prompt, text: MixText, max_model_len: int, *, is_past: bool
    ) -> tuple[list[int], Prompting | None]:
        """Raises ConfigError or ContextError for a prompt that cannot be answered."""
        token_ids, prompting = text.token_ids(prompt, is_past=is_past)
        if not token_ids:
            raise ConfigError(f"prompt {prompt!r} is empty; give at least one token")
        self._check_vocabulary(token_ids)
        if len(token_ids) >= max_model_len:
            raise ContextError(
                f"the prompt has {len(token_ids)} tokens, but the context holds {max_model_len} including the "
                "answer; shorten it, start a new conversation, or raise max_model_len"
            )
        return token_ids, prompting

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

    def _check_vocabulary(self, token_ids: list[int]) -> None:
        if wrong := [t for t in token_ids if not (isinstance(t, int) and 0 <= t < self._vocab_size)]:
            raise ConfigError(f"token id {wrong[0]!r} is not in the vocabulary of {self._vocab_size} tokens")


def ends_with_answer(prompt: Prompt) -> bool:
    last = prompt[-1] if prompt else None
    return isinstance(last, ChatMessage) and last.role == "assistant"
