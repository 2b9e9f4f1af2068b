"""The five shapes of a record, and which of them a record has. Each becomes messages, or a text behind a prompt."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mp13.engine.training.sample import Message, Role
from mp13.errors import ConfigError
from mp13.library.data.fields import Fields
from mp13.library.data.json_file import parsed
from mp13.library.data.problem import BadRecord, kind_of, shown
from mp13.library.data.roles import checked

_ROLES: dict[str, Role] = {
    "system": "system", "developer": "system", "user": "user", "assistant": "assistant",
}  # fmt: skip
_SPEAKERS: dict[str, Role] = {
    "system": "system", "human": "user", "user": "user", "gpt": "assistant", "chatgpt": "assistant",
    "bing": "assistant", "bard": "assistant", "assistant": "assistant", "model": "assistant",
}  # fmt: skip


@dataclass(frozen=True)
class Content:
    """What a record says: of a sample, all but where it stood."""

    messages: tuple[Message, ...] = ()
    prompt: str = ""
    text: str = ""


@dataclass(frozen=True)
class Format:
    """`keys` are read; `marks` are those of them that tell the format, and are required."""

    name: str
    marks: tuple[str, ...]
    keys: tuple[str, ...]
    read: Callable[[Fields], Content]
    example: str

    def fits(self, record: Mapping[str, Any]) -> bool:
        return all(record.get(key) is not None for key in self.marks)


def format_named(name: str) -> Format:
    """Raises ConfigError for a name that is none."""
    found = next((known for known in FORMATS if known.name == name), None)
    if found is None:
        raise ConfigError(f"format = {name!r} is not known; give one of {', '.join(f.name for f in FORMATS)}")
    return found


def format_of(record: Mapping[str, Any]) -> Format:
    """The first that the record fits. Raises BadRecord where there is none."""
    found = next((known for known in FORMATS if known.fits(record)), None)
    if found is None:
        if {"chosen", "rejected"} <= record.keys():
            raise BadRecord("is a preference between two answers", "write the better one alone, as messages")
        for known in FORMATS:
            Fields(record, known.keys).require_all_of(known.marks)
        keys = f"the keys {', '.join(map(shown, record)):.200}" if record else "no keys"
        raise BadRecord(f"has {keys}, which is no known format", f"write {_examples()}")
    return found


def _read_messages(fields: Fields) -> Content:
    rows = _list(fields, "messages")
    return Content(checked([_message(row, i) for i, row in enumerate(rows, start=1)]))


def _message(row: Any, number: int) -> Message:
    fields = _row(row, ("role", "content", "weight"), number)
    said = fields.required("role")
    if not isinstance(said, str) or said not in _ROLES:
        raise fields.bad(f"the role {shown(said)} is not known", "write system, user or assistant")
    if not isinstance(fields.required("content"), str):
        raise fields.bad(f"content is {kind_of(fields.values['content'])}, not text", "join its parts to one text")
    return _finished(fields, _ROLES[said], "content")


def _read_sharegpt(fields: Fields) -> Content:
    messages = [_spoken(row, i) for i, row in enumerate(_list(fields, "conversations"), start=1)]
    if "system" in fields.values:
        if messages and messages[0].role == "system":
            raise fields.bad("has two system prompts", "leave one of them out")
        messages.insert(0, Message("system", fields.text("system", may_be_empty=True)))
    return Content(checked(messages))


def _spoken(row: Any, number: int) -> Message:
    fields = _row(row, ("from", "value", "weight"), number)
    said = fields.required("from")
    if not isinstance(said, str) or said not in _SPEAKERS:
        raise fields.bad(f"the speaker {shown(said)} is not known", "write system, human or gpt")
    return _finished(fields, _SPEAKERS[said], "value")


def _row(row: Any, known: tuple[str, ...], number: int) -> Fields:
    if not isinstance(row, dict):
        raise BadRecord(f"message {number} is {kind_of(row)}, not an object", f"write its {known[0]} and {known[1]}")
    fields = Fields(row, known, f"message {number}: ")
    fields.refuse_unknown()
    return fields


def _finished(fields: Fields, role: Role, key: str) -> Message:
    weight = fields.values.get("weight", 1)
    if type(weight) not in (int, float) or weight not in (0, 1):
        raise fields.bad(f"weight = {shown(weight)} cannot be used", "give 1, or 0 for an answer that is not learned")
    if "weight" in fields.values and role != "assistant" and weight == 1:
        raise fields.bad(f"weight = 1, but the {role} is never learned", "give weights to answers alone")
    text = fields.text(key, may_be_empty=role == "system")
    return Message(role, text, weight == 1 or role != "assistant")


def _read_alpaca(fields: Fields) -> Content:
    said = fields.text("instruction")
    if (more := fields.text("input", may_be_empty=True) if "input" in fields.values else "").strip():
        said = f"{said}\n\n{more}"
    messages = [Message("user", said), Message("assistant", fields.text("output"))]
    if (system := fields.text("system", may_be_empty=True) if "system" in fields.values else "").strip():
        messages.insert(0, Message("system", system))
    return Content(tuple(messages))


def _read_prompt(fields: Fields) -> Content:
    prompt, completion = fields.required("prompt"), fields.required("completion")
    if isinstance(prompt, list) and isinstance(completion, list):
        before = [_message(row, i) for i, row in enumerate(prompt, start=1)]
        asked = [Message(m.role, m.content, m.role != "assistant") for m in before]
        learned = [_message(row, i) for i, row in enumerate(completion, start=len(prompt) + 1)]
        return Content(checked([*asked, *learned]))
    if isinstance(prompt, list) != isinstance(completion, list):
        raise BadRecord("prompt and completion are not both text or both messages", "write both in one way")
    return Content(prompt=fields.text("prompt"), text=fields.text("completion"))


def _read_text(fields: Fields) -> Content:
    return Content(text=fields.text("text"))


def _list(fields: Fields, key: str) -> list[Any]:
    value = fields.required(key)
    if isinstance(value, str):  # a cell of a table
        try:
            value = parsed(value)
        except (ValueError, RecursionError):
            raise fields.bad(f"{key} is text, and not a list in JSON", "write a list of objects") from None
    if not isinstance(value, list):
        raise fields.bad(f"{key} is {kind_of(value)}, not a list", "write a list of objects")
    return value


def _examples() -> str:
    *most, last = (known.example for known in FORMATS)
    return f"{', '.join(most)} or {last}"


# A record that fits several is of the first of them.
FORMATS = (
    Format("messages", ("messages",), ("messages",), _read_messages, '{"messages": […]}'),
    Format("sharegpt", ("conversations",), ("conversations", "system"), _read_sharegpt, '{"conversations": […]}'),
    Format(
        "alpaca",
        ("instruction", "output"),
        ("instruction", "input", "output", "system"),
        _read_alpaca,
        '{"instruction": …, "output": …}',
    ),
    Format(
        "prompt-completion",
        ("prompt", "completion"),
        ("prompt", "completion"),
        _read_prompt,
        '{"prompt": …, "completion": …}',
    ),
    Format("text", ("text",), ("text",), _read_text, '{"text": …}'),
)
