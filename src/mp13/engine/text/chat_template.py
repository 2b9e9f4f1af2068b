"""Messages to token ids. Two things a plain render-and-tokenize gets wrong are right here:

- An answer the model gave goes back in as the very ids it was made of, where the template shows it unchanged.
  Re-tokenizing its text often gives others, and then the cache of the conversation so far would not match.
- What a person or a file wrote is text: `<|im_end|>` in it is seven harmless tokens, not the end of the message.
"""

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from mp13.errors import ConfigError, UnsupportedError


@dataclass(frozen=True)
class ChatMessage:
    """`token_ids`, if given, are what the model produced for this answer, its end token included."""

    role: str
    content: str
    token_ids: tuple[int, ...] | None = None


@dataclass(frozen=True)
class _Span:
    """A message's content within the rendered conversation, and the ids to put there instead, if any."""

    start: int
    stop: int
    ids: tuple[int, ...] = ()


def template_digest(tokenizer: Any) -> str:
    """SHA-256 of the chat template; of nothing when there is none."""
    return hashlib.sha256((tokenizer.chat_template or "").encode()).hexdigest()


def chat_token_ids(tokenizer: Any, messages: Sequence[ChatMessage]) -> list[int]:
    """The prompt for the next answer to `messages`.

    Raises:
        UnsupportedError: the model has no chat template.
        ConfigError: the template refuses these messages.
    """
    if not tokenizer.chat_template:
        raise UnsupportedError("this model has no chat template; give it a plain prompt, or use an instruct model")
    text = _render(tokenizer, messages)
    special = _special_tokens(tokenizer)
    ids: list[int] = []
    plain = ""
    for piece in _pieces(text, _find_contents(tokenizer, messages, text), special):
        if isinstance(piece, str):
            plain += piece
        else:
            ids += _encode_plain(tokenizer, plain) + list(piece)
            plain = ""
    return ids + _encode_plain(tokenizer, plain)


def _render(tokenizer: Any, messages: Sequence[ChatMessage]) -> str:
    try:
        text: str = tokenizer.apply_chat_template(
            [{"role": m.role, "content": m.content} for m in messages], tokenize=False, add_generation_prompt=True
        )
    except Exception as error:  # templates raise whatever they like
        raise ConfigError(f"the model's chat template refuses this conversation: {error}") from None
    return text


def _find_contents(tokenizer: Any, messages: Sequence[ChatMessage], text: str) -> list[_Span]:
    """Where each content stands in the rendered text: render once more with marks in their places and compare."""
    marks = [f"\ue000{i}\ue001" for i in range(len(messages))]
    marked = _render(
        tokenizer, [ChatMessage(m.role, mark) for m, mark in zip(messages, marks, strict=True)]
    )
    spans, position, cursor = [], 0, 0
    for message, mark in zip(messages, marks, strict=True):
        at = marked.find(mark, cursor)
        if at < 0:
            continue  # the template leaves this message out
        position += at - cursor
        content = next((c for c in (message.content, message.content.strip()) if text.startswith(c, position)), None)
        if content is None or text[position - (at - cursor) : position] != marked[cursor:at]:
            return _search_contents(tokenizer, messages, text)
        spans.append(_Span(position, position + len(content), _own_ids(tokenizer, message, content)))
        position += len(content)
        cursor = at + len(mark)
    return spans if text[position:] == marked[cursor:] else _search_contents(tokenizer, messages, text)


def _search_contents(tokenizer: Any, messages: Sequence[ChatMessage], text: str) -> list[_Span]:
    """For templates that treat contents specially: each content's first place after the one before."""
    spans, position = [], 0
    for message in messages:
        content = message.content.strip()
        at = text.find(content, position)
        if at >= 0 and content:
            spans.append(_Span(at, at + len(content), _own_ids(tokenizer, message, content)))
            position = at + len(content)
    return spans


def _own_ids(tokenizer: Any, message: ChatMessage, shown: str) -> tuple[int, ...]:
    """The answer's own ids if they spell what the template shows; an answer cut at a stop string, say, does not."""
    ids = message.token_ids or ()
    if not ids or tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False) != shown:
        return ()
    return ids


def _pieces(text: str, spans: Sequence[_Span], special: dict[str, int]) -> Iterator[str | tuple[int, ...]]:
    """Plain text, and ids that stand for themselves: the template's special tokens and the model's own answers."""
    pattern = re.compile("|".join(re.escape(token) for token in sorted(special, key=len, reverse=True)) or r"(?!)")
    cursor = 0
    for span in spans:
        yield from _template_pieces(text[cursor : span.start], pattern, special)
        cursor = span.stop
        if not span.ids:
            yield text[span.start : span.stop]
            continue
        following = pattern.match(text, span.stop)
        end = special[following[0]] if following else None
        yield span.ids[:-1] if end == span.ids[-1] else span.ids  # the template writes the end token itself
    yield from _template_pieces(text[cursor:], pattern, special)


def _template_pieces(
    text: str, pattern: re.Pattern[str], special: dict[str, int]
) -> Iterator[str | tuple[int, ...]]:
    cursor = 0
    for match in pattern.finditer(text):
        yield text[cursor : match.start()]
        yield (special[match[0]],)
        cursor = match.end()
    yield text[cursor:]


def _special_tokens(tokenizer: Any) -> dict[str, int]:
    return {token.content: token_id for token_id, token in tokenizer.added_tokens_decoder.items() if token.content}


def _encode_plain(tokenizer: Any, text: str) -> list[int]:
    """Tokenize with special tokens off: their spelling is ordinary text."""
    if not text:
        return []
    ids: list[int] = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    return ids


def to_messages(messages: Sequence[dict[str, Any] | ChatMessage]) -> list[ChatMessage]:
    """Messages from dicts with `role`, `content` and, for earlier answers, `token_ids`.

    Raises:
        ConfigError: a message lacks a role or content, or there are no messages.
    """
    if not messages:
        raise ConfigError("the conversation is empty; give at least one message")
    result = []
    for message in messages:
        if isinstance(message, dict):
            role, content, ids = message.get("role"), message.get("content"), message.get("token_ids")
            if not (isinstance(role, str) and isinstance(content, str)):
                raise ConfigError(f"message {message!r} needs a text for 'role' and for 'content'")
            message = ChatMessage(role, content, None if ids is None else tuple(ids))
        result.append(message)
    return result
