"""Which tokens of a conversation the model wrote, or is to learn to write: found by rendering it with and without the
answer. What stands before the answer is what the engine would be asked with.

Nothing is known here of any template's markers.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mp13.engine.models.mistral_tokenizer import MistralTokenizer
from mp13.engine.text.chat_template import ChatMessage, Conversation, any_of, chat_token_ids
from mp13.errors import ConfigError

_CHANGED = (
    "the model's chat template does not show this answer as it is written (it may leave reasoning out); write what the "
    "template shows, or use a model with another template"
)
_SPACES = re.compile(r"\s+")


@dataclass(frozen=True)
class AnswerTokens:
    """`prompt` asks for the answer; `answer` is all that the model writes then, the token that ends it included if the
    template has one (`has_end`); `rest` is what the template writes behind that."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    rest: tuple[int, ...]
    has_end: bool


def answer_tokens(tokenizer: Any, messages: Sequence[ChatMessage]) -> AnswerTokens:
    """Of the last message, an answer. Earlier answers are taken as the ids that they carry, as in a prompt.

    Raises:
        UnsupportedError: the model has no chat template.
        ConfigError: the template refuses the conversation, does not show this answer behind its own question, or shows
            another text than the answer's.
    """
    prompt = tuple(chat_token_ids(tokenizer, messages[:-1]))
    if isinstance(tokenizer, MistralTokenizer):
        return _mistral_answer(tokenizer, messages, prompt)
    conversation, shown = _shown(tokenizer, messages)
    behind = conversation.behind_last()
    end = len(shown) - len(behind)
    if not shown.endswith(behind) or not _ends_with(shown[:end], conversation.contents[-1]):
        raise ConfigError(_CHANGED)
    special = frozenset(t.content for t in tokenizer.added_tokens_decoder.values() if t.special)
    found = any_of(special).search(shown, end)
    if found is None:
        return AnswerTokens(prompt, tuple(conversation.encode(shown[:end])), (), has_end=False)
    answer = conversation.encode(shown[: found.start()])
    ending = conversation.encode(shown[found.start() :])
    return AnswerTokens(prompt, (*answer, ending[0]), tuple(ending[1:]), has_end=True)


def _shown(tokenizer: Any, messages: Sequence[ChatMessage]) -> tuple[Conversation, str]:
    """What the template writes for the answer, behind the text that asks for it.

    Some show a conversation in another way once it is answered: Mistral's moves or drops the system prompt. Then the
    answer is taken as it stands behind its question alone.
    """
    for start in dict.fromkeys((0, max(len(messages) - 2, 0))):
        part = messages[start:]
        asking = Conversation(tokenizer, part[:-1], is_past=False, beside=part[-1:])
        answered = Conversation(tokenizer, part, is_past=True)
        question, whole = asking.text(), answered.text()
        if whole.startswith(question):
            return answered, whole[len(question) :]
    raise ConfigError(
        "the model's chat template does not begin this answer as it asks for it (it may open a reasoning that the "
        "answer lacks); leave the sample out, or use a model with another template"
    )


def _ends_with(shown: str, answer: str) -> bool:
    """Whether it is the answer that is shown last; spaces may differ, which many templates trim."""
    return _SPACES.sub("", shown).endswith(_SPACES.sub("", answer))


def _mistral_answer(
    tokenizer: MistralTokenizer, messages: Sequence[ChatMessage], prompt: tuple[int, ...]
) -> AnswerTokens:
    """mistral-common makes tokens without a text in between, and ends every answer with one token."""
    for start in dict.fromkeys((0, max(len(messages) - 2, 0))):
        question = chat_token_ids(tokenizer, messages[start:-1])
        whole = chat_token_ids(tokenizer, messages[start:], is_past=True)
        answer = tuple(whole[len(question) :])
        if whole[: len(question)] == question and answer[-1:] == (tokenizer.eos_token_id,):
            if not _ends_with(tokenizer.decode(answer[:-1]), messages[-1].content):
                raise ConfigError(_CHANGED)
            return AnswerTokens(prompt, answer, (), has_end=True)
    raise ConfigError("mistral-common does not show this answer behind its question; leave the sample out")
