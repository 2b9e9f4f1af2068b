"""Messages to token ids. Two things a plain render-and-tokenize gets wrong are right here:

- An answer the model gave goes back in as the very ids it was made of, where the template shows it unchanged.
  Re-tokenizing its text often gives others, and then the cache of the conversation so far would not match.
- What a person or a file wrote is text: `<|im_end|>` in it is a few harmless tokens, not the end of the message.

Both are marked by characters that occur in no message: one cuts every special token that somebody spelled, another
stands for an answer. The template carries them along, whatever it does with its contents.
"""

import hashlib
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from mp13.engine.models.mistral_tokenizer import MistralTokenizer
from mp13.engine.text.detokenizer import whole_text
from mp13.engine.text.mistral_chat import Row, mistral_token_ids
from mp13.errors import ConfigError, UnsupportedError

_PRIVATE_USE = range(0xE000, 0xF900)  # characters that no standard gives a meaning


@dataclass(frozen=True)
class ChatMessage:
    """`token_ids`, if given, are what the model produced for this answer, its end token included."""

    role: str
    content: str
    token_ids: tuple[int, ...] | None = None


def template_digest(tokenizer: Any) -> str:
    """SHA-256 of the chat template or what stands in its place; of nothing when there is none."""
    if isinstance(tokenizer, MistralTokenizer):
        return tokenizer.template_digest
    return hashlib.sha256(chat_template(tokenizer).encode()).hexdigest()


def chat_template(tokenizer: Any) -> str:
    """The chat template, of several the one called "default"; "" when there is none."""
    template = tokenizer.chat_template or ""
    return template.get("default", "") if isinstance(template, dict) else template


def chat_token_ids(tokenizer: Any, messages: Sequence[ChatMessage], *, is_past: bool = False) -> list[int]:
    """The prompt for the next answer to `messages`; of a conversation's past, what a next turn will be put behind.

    Raises:
        UnsupportedError: the model has no chat template.
        ConfigError: the template refuses these messages.
    """
    if isinstance(tokenizer, MistralTokenizer):
        rows = [Row(m.role, m.content, answer_ids(tokenizer, m, tokenizer.added_tokens_decoder)) for m in messages]
        return mistral_token_ids(tokenizer, rows, _unused_characters(messages)[0], is_past=is_past)
    if not chat_template(tokenizer):
        raise UnsupportedError("this model has no chat template; give it a plain prompt, or use an instruct model")
    return _Conversation(tokenizer, messages, is_past).token_ids()


def continuation_ids(tokenizer: Any, text: str) -> list[int]:
    """The tokens of a text that goes on behind a prompt. Special tokens that it spells are text."""
    if isinstance(tokenizer, MistralTokenizer):
        return tokenizer(text, add_special_tokens=False)["input_ids"]
    return _Conversation(tokenizer, [ChatMessage("assistant", text)], is_past=True).content_ids()


def begun_ids(tokenizer: Any, answer: ChatMessage, ending: Collection[int]) -> list[int]:
    """The tokens of an answer that is to go on: those it was made of, without what ended it, where they spell its
    content or go on from it (a stop string is not in the content); else its content's, as `continuation_ids`."""
    ids = list(answer.token_ids or ())
    while ids and ids[-1] in ending:
        ids.pop()
    if ids and whole_text(tokenizer, ids).startswith(answer.content):
        return ids
    return continuation_ids(tokenizer, answer.content)


class _Conversation:
    """One conversation on its way to token ids."""

    def __init__(self, tokenizer: Any, messages: Sequence[ChatMessage], is_past: bool) -> None:
        self._tokenizer = tokenizer
        self._asks = not is_past
        self._added = dict(tokenizer.added_tokens_decoder)  # token id -> what the vocabulary has beside plain text
        self._cut, self._mark = _unused_characters(messages)
        self._marks = re.compile(f"{self._mark}([0-9]+){self._mark}")
        special = {token.content for token in self._added.values() if token.special}
        template = chat_template(tokenizer)
        markers = {t.content for t in self._added.values() if t.content.strip() and t.content in template}
        # What marks the template's own structure is as good as special; but in an answer the template may look for it.
        in_answers, elsewhere = _any_of(special), _any_of(special | markers)
        self._messages = [self._harmless(m, in_answers if m.role == "assistant" else elsewhere) for m in messages]
        answers = ((i, answer_ids(tokenizer, message, self._added)) for i, message in enumerate(messages))
        self._answers = {i: ids for i, ids in answers if ids}
        # Text that does not begin the prompt is tokenized behind a special token: some tokenizers would put a space
        # before it.
        solid = (t.content for t in self._added.values() if t.special and not t.rstrip and not t.single_word)
        self._anchor = next(solid, "")

    def token_ids(self) -> list[int]:
        pieces = self._marks.split(self._marked())  # text, number of an answer, text, ...
        ids: list[int] = []
        for position in range(0, len(pieces), 2):
            text, answer = pieces[position], None
            if position + 1 < len(pieces):
                answer = self._answers[int(pieces[position + 1])]
                if text.endswith(" ") and self._brings_a_space(answer):
                    text = text[:-1]
            for part in text.split(self._cut):
                ids += self._encode(part, is_first=not ids)
            ids += answer or ()
        return ids

    def content_ids(self) -> list[int]:
        """The first message's content alone, as it is behind other text."""
        parts = self._messages[0].content.split(self._cut)
        return [token_id for part in parts for token_id in self._encode(part, is_first=False)]

    def _harmless(self, message: ChatMessage, forbidden: re.Pattern[str]) -> ChatMessage:
        """The message with a cut in each of the forbidden tokens that its text spells."""
        texts = (message.role, message.content)
        role, content = (forbidden.sub(lambda found: f"{found[0][0]}{self._cut}{found[0][1:]}", text) for text in texts)
        return ChatMessage(role, content)

    def _marked(self) -> str:
        """The rendered conversation, with a mark for each answer that the template shows as it is."""
        contents = [message.content for message in self._messages]
        text = self._render(contents)
        for answers in self._candidates(contents, text):
            marked = self._render_marked(contents, answers)
            if self._filled(marked, contents) == text:
                return marked
        return text

    def _candidates(self, contents: list[str], text: str) -> Iterator[set[int]]:
        """All answers; and if the template does not show all of them as they are, those that it does."""
        if self._answers:
            yield set(self._answers)
            yield {i for i in self._answers if self._filled(self._render_marked(contents, {i}), contents) == text}

    def _render_marked(self, contents: list[str], answers: set[int]) -> str:
        marked = [f"{self._mark}{i}{self._mark}" if i in answers else content for i, content in enumerate(contents)]
        try:
            return self._render(marked)
        except ConfigError:  # a template that looks into its contents may refuse a mark
            return ""

    def _filled(self, marked: str, contents: list[str]) -> str:
        return self._marks.sub(lambda match: contents[int(match[1])], marked)

    def _render(self, contents: list[str]) -> str:
        rows = [{"role": m.role, "content": c} for m, c in zip(self._messages, contents, strict=True)]
        try:
            text: str = self._tokenizer.apply_chat_template(rows, tokenize=False, add_generation_prompt=self._asks)
        except Exception as error:  # templates raise whatever they like
            raise ConfigError(f"the model's chat template refuses this conversation: {error}") from None
        return text

    def _brings_a_space(self, ids: tuple[int, ...]) -> bool:
        """True where the text of `ids` gets a space in front of it unless it stands first (SentencePiece)."""
        alone, behind = self._decode(ids), self._decode((ids[0], *ids))[len(self._decode(ids[:1])) :]
        return behind == f" {alone}"

    def _encode(self, text: str, *, is_first: bool) -> list[int]:
        if not text:
            return []
        anchor = "" if is_first else self._anchor
        ids: list[int] = self._tokenizer(anchor + text, add_special_tokens=False)["input_ids"]
        return ids[1:] if anchor else ids

    def _decode(self, ids: Sequence[int]) -> str:
        return _decode(self._tokenizer, ids)


def answer_ids(tokenizer: Any, message: ChatMessage, added: dict[int, Any]) -> tuple[int, ...]:
    """The answer's own ids without its end token, which the template writes; () if they do not spell its content, as
    after a stop string. `added` are the tokenizer's tokens beside plain text."""
    ids = message.token_ids or ()
    while ids and ids[-1] in added and added[ids[-1]].special:
        ids = ids[:-1]
    if not ids or max(ids) >= len(tokenizer) or _decode(tokenizer, ids) != message.content:
        return ()
    return ids


def _decode(tokenizer: Any, ids: Sequence[int]) -> str:
    text: str = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return text


def _any_of(tokens: set[str]) -> re.Pattern[str]:
    """Matches each of `tokens`, the longest where several begin."""
    return re.compile("|".join(re.escape(token) for token in sorted(tokens, key=len, reverse=True) if token) or "(?!)")


def _unused_characters(messages: Sequence[ChatMessage]) -> tuple[str, str]:
    used = set("".join(m.role + m.content for m in messages))
    unused = (chr(code) for code in _PRIVATE_USE if chr(code) not in used)
    try:
        return next(unused), next(unused)
    except StopIteration:
        raise ConfigError("the messages use up every private-use character; leave some of them out") from None


def to_messages(messages: Sequence[dict[str, Any] | ChatMessage]) -> list[ChatMessage]:
    """Messages from dicts with `role`, `content` and, for earlier answers, `token_ids`.

    Raises:
        ConfigError: a message lacks a role or content, its ids are none, or there are no messages.
    """
    if not messages:
        raise ConfigError("the conversation is empty; give at least one message")
    return [message if isinstance(message, ChatMessage) else _to_message(message) for message in messages]


def _to_message(message: Any) -> ChatMessage:
    fields = message if isinstance(message, dict) else {}
    role, content, ids = fields.get("role"), fields.get("content"), fields.get("token_ids")
    if not (isinstance(role, str) and isinstance(content, str)):
        raise ConfigError(f"message {message!r} needs a text for 'role' and for 'content'")
    if ids is not None and not (isinstance(ids, list | tuple) and all(isinstance(i, int) and i >= 0 for i in ids)):
        raise ConfigError(f"token_ids = {ids!r} of a message are no token ids; give whole numbers, 0 or more, or none")
    return ChatMessage(role, content, None if ids is None else tuple(ids))
