"""What an adapter brings beside weights: a chat template, tokens, a system prompt; and which of them a mix uses.

Only JSON and template text are read from an adapter's folder, no code and no pickle. Templates are run by Transformers,
sandboxed. What equals the base model's own counts as nothing.
"""

import copy
import json
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any, cast

from transformers import AddedToken

from mp13.engine.adapters.adapter_config import merge_hint, read_small_file, short
from mp13.engine.adapters.folder_stamp import MAX_SIDECAR_BYTES, SIDECAR_FILE
from mp13.engine.models.mistral_tokenizer import MistralTokenizer
from mp13.engine.request import Prompting
from mp13.engine.text.chat_template import ChatMessage, chat_template, chat_token_ids, template_digest
from mp13.errors import AdapterError, Mp13Error

_MAX_TEMPLATE_BYTES = 1 << 20
_MAX_CONFIG_BYTES = 16 << 20
_MAX_TOKENIZER_BYTES = 128 << 20
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


@dataclass(frozen=True)
class AdapterText:
    """`tokenizer` is the base's with the adapter's template and tokens in it; None if it brings neither.

    `eos_token_id` ends its answers, beside what ends the base's.
    """

    tokenizer: Any = None
    has_template: bool = False
    has_tokens: bool = False
    eos_token_id: int | None = None
    system_prompt: str | None = None

    @property
    def brings(self) -> tuple[str, ...]:
        there = {"template": self.has_template, "tokens": self.has_tokens, "system prompt": self.system_prompt}
        return tuple(name for name, value in there.items() if value)


@dataclass(frozen=True)
class MixText:
    """What a mix reads and writes with. `..._from` name the adapter that brought it, None where that is the base."""

    tokenizer: Any
    template_from: str | None = None
    eos_token_ids: frozenset[int] = frozenset()  # beside the base's
    system_prompt: str | None = None
    system_from: str | None = None

    def token_ids(
        self, prompt: str | list[int] | list[ChatMessage], *, is_past: bool = False
    ) -> tuple[list[int], Prompting | None]:
        """The prompt as tokens, and if it is messages, what made a text of them. Raises as `chat_token_ids` does."""
        if isinstance(prompt, str):
            return list(self.tokenizer(prompt)["input_ids"]), None
        messages = [message for message in prompt if isinstance(message, ChatMessage)]
        if not messages:
            return cast("list[int]", list(prompt)), None
        prompting = Prompting(template_digest(self.tokenizer), self.template_from)
        if self.system_prompt is not None and all(message.role != "system" for message in messages):
            messages.insert(0, ChatMessage("system", self.system_prompt))
            prompting = replace(prompting, system_from=self.system_from)
        return chat_token_ids(self.tokenizer, messages, is_past=is_past), prompting


def mix_text(base_tokenizer: Any, members: Iterable[tuple[str, float, AdapterText | None]]) -> MixText:
    """Of the members (name, weight, text) that bring a template, or else tokens, the heaviest speaks; likewise of those
    with a system prompt. Of equals it is the first by name; a weight of 0 has no say."""
    heaviest = sorted((-abs(weight), name, text) for name, weight, text in members if text and weight)
    speaking = [(name, text) for _, name, text in heaviest if text.tokenizer is not None]
    speaking.sort(key=lambda member: not member[1].has_template)
    mix = MixText(base_tokenizer)
    for name, text in speaking[:1]:
        mix = MixText(
            text.tokenizer,
            name if text.has_template else None,
            frozenset(() if text.eos_token_id is None else (text.eos_token_id,)),
        )
    for name, text in [(name, text) for _, name, text in heaviest if text.system_prompt][:1]:
        mix = replace(mix, system_prompt=text.system_prompt, system_from=name)
    return mix


def read_adapter_text(folder: Path, tokenizer: Any, vocab_size: int, name: str) -> AdapterText | None:
    """What the adapter in `folder` brings that the base's `tokenizer` lacks; None if nothing.

    Raises:
        AdapterError: a file is malformed, its template cannot be used, or its tokens have no place in the model.
        OSError: a file cannot be read.
    """
    config = _read_object(folder / "tokenizer_config.json", _MAX_CONFIG_BYTES)
    system_prompt = _system_prompt(folder)
    template = _template(folder, config)
    if template is not None and template.rstrip("\n") == chat_template(tokenizer).rstrip("\n"):
        template = None
    tokens = _new_tokens(folder, config, tokenizer, vocab_size, template or "", name)
    if template is None and not tokens:
        return AdapterText(system_prompt=system_prompt) if system_prompt else None
    if isinstance(tokenizer, MistralTokenizer):
        brought = "a chat template" if template is not None else "tokens"
        raise AdapterError(
            f"{folder} brings {brought} of its own, and mistral-common, which makes this model's prompts, takes none; "
            "remove its chat_template.jinja and tokenizer files"
        )
    derived = _derive(tokenizer, template, tokens, folder, name)
    text = AdapterText(derived, template is not None, bool(tokens), _eos(config, derived), system_prompt)
    _try(text, folder)
    return text


def _read_object(path: Path, max_bytes: int) -> dict[str, Any]:
    """The JSON object in a file; {} where there is no such file."""
    if not path.exists():
        return {}
    try:
        content = json.loads(read_small_file(path, max_bytes))
    except (ValueError, RecursionError) as error:
        raise AdapterError(f"{path} is not valid JSON: {error!s:.200}") from None
    if not isinstance(content, dict):
        raise AdapterError(f"{path} holds {type(content).__name__}, not an object; remove it or save it again")
    return content


def _system_prompt(folder: Path) -> str | None:
    path = folder / SIDECAR_FILE
    prompt = _read_object(path, MAX_SIDECAR_BYTES).get("system_prompt")
    if prompt is not None and not (isinstance(prompt, str) and _is_text(prompt)):
        raise AdapterError(f"{path}: system_prompt = {short(prompt)} is not plain text; correct or remove it")
    return prompt or None


def _is_text(value: str) -> bool:
    """Whether it has no control characters but line breaks and tabs, and no half characters."""
    return all(c in "\n\r\t" or unicodedata.category(c) not in ("Cc", "Cs") for c in value)


def _template(folder: Path, config: dict[str, Any]) -> str | None:
    """The chat template, of several the one called "default"."""
    path = folder / "chat_template.jinja"
    if path.exists():
        try:
            return read_small_file(path, _MAX_TEMPLATE_BYTES).decode()
        except UnicodeDecodeError as error:
            raise AdapterError(f"{path} is not UTF-8 text ({error}); remove it or save it again") from None
    template = config.get("chat_template")
    if isinstance(template, list):
        named = [entry for entry in template if isinstance(entry, dict) and entry.get("name") == "default"]
        template = named[0].get("template") if named else None
    if template is not None and not isinstance(template, str):
        where = folder / "tokenizer_config.json"
        raise AdapterError(f"{where}: chat_template = {short(template)} is not a template; remove it or save it again")
    return template or None


def _new_tokens(
    folder: Path, config: dict[str, Any], tokenizer: Any, vocab_size: int, template: str, name: str
) -> list[tuple[int, AddedToken]]:
    """Tokens that the base's tokenizer does not have as such, by id."""
    known = {token_id: token.content for token_id, token in tokenizer.added_tokens_decoder.items()}
    pad = _content(config.get("pad_token"))
    new = []
    for token_id, token in sorted(_added_tokens(folder, config), key=lambda entry: entry[0]):
        if known.get(token_id) == token.content:
            continue
        if token_id >= vocab_size and token.content == pad and token.content not in template:
            continue  # training filled batches up with it; no prompt and no answer has it
        if token_id >= vocab_size:
            raise AdapterError(
                f"{folder}: its token {short(token.content)} has number {token_id}, but the model ends at "
                f"{vocab_size}; {merge_hint(name)}"
            )
        new.append((token_id, token))
    return new


def _added_tokens(folder: Path, config: dict[str, Any]) -> list[tuple[int, AddedToken]]:
    """What the most detailed of the tokenizer's files says."""
    entries: list[tuple[Any, Any]]
    if listed := config.get("added_tokens_decoder"):
        entries = list(listed.items()) if isinstance(listed, dict) else [(None, listed)]
        where = folder / "tokenizer_config.json"
    elif listed := _read_object(where := folder / "tokenizer.json", _MAX_TOKENIZER_BYTES).get("added_tokens"):
        listed = listed if isinstance(listed, list) else [listed]
        entries = [(entry.get("id") if isinstance(entry, dict) else None, entry) for entry in listed]
    else:
        listed = _read_object(where := folder / "added_tokens.json", _MAX_CONFIG_BYTES)
        entries = [(token_id, {"content": content}) for content, token_id in listed.items()]
    return [_added_token(token_id, fields, where) for token_id, fields in entries]


def _added_token(token_id: Any, fields: Any, where: Path) -> tuple[int, AddedToken]:
    if isinstance(token_id, str) and token_id.isdecimal() and len(token_id) < 10:
        token_id = int(token_id)
    content = _content(fields) if isinstance(fields, dict) else None
    flags = {flag: fields[flag] for flag in _FLAGS if flag in fields} if content else {}
    if not (type(token_id) is int and token_id >= 0 and content and all(isinstance(v, bool) for v in flags.values())):
        raise AdapterError(f"{where}: {short(token_id)}: {short(fields)} is no added token; save the tokenizer again")
    return token_id, AddedToken(content, **flags)


def _content(token: Any) -> str | None:
    content = token.get("content") if isinstance(token, dict) else token
    return content if isinstance(content, str) else None


def _derive(tokenizer: Any, template: str | None, tokens: list[tuple[int, AddedToken]], folder: Path, name: str) -> Any:
    """The base's tokenizer with the adapter's template and tokens; the base's own stays as it is."""
    derived = copy.deepcopy(tokenizer) if tokens else copy.copy(tokenizer)
    if template is not None:
        derived.chat_template = template
    for special, together in groupby((token for _, token in tokens), key=attrgetter("special")):
        derived.add_tokens(list(together), special_tokens=special)  # one by one, many would take minutes
    for token_id, token in tokens:
        if (
            derived.convert_tokens_to_ids(token.content) != token_id
            or derived.convert_ids_to_tokens(token_id) != token.content
        ):
            raise AdapterError(
                f"{folder}: its token {short(token.content)} has number {token_id}, which means something else in this "
                f"model's vocabulary; choose the model it was made for, or {merge_hint(name)}"
            )
    return derived


def _eos(config: dict[str, Any], tokenizer: Any) -> int | None:
    """The token that ends the adapter's answers, if its tokenizer names one that exists."""
    content = _content(config.get("eos_token"))
    token_id = tokenizer.get_vocab().get(content)
    return token_id if isinstance(token_id, int) else None


def _try(text: AdapterText, folder: Path) -> None:
    """Render a greeting, so that a template that cannot be used is refused now and not in the middle of a chat."""
    if not text.has_template:
        return
    messages = [ChatMessage("user", "Hello")]
    if text.system_prompt:
        messages.insert(0, ChatMessage("system", text.system_prompt))
    try:
        chat_token_ids(text.tokenizer, messages)
    except Mp13Error as error:
        raise AdapterError(
            f"{folder}: its chat template cannot be used ({short(str(error), 300)}); remove or correct it"
        ) from None
