"""What an adapter learns from: a conversation, or a text behind a prompt, and where it stood. Plain data, no torch: the
library reads and checks samples, the engine makes tokens of them."""

import json
from dataclasses import dataclass
from typing import Any, Literal, Self

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True)
class Message:
    """`is_learned` says of an answer whether it is to be learned; nothing else ever is."""

    role: Role
    content: str
    is_learned: bool = True


@dataclass(frozen=True)
class Sample:
    """A conversation, or a text that is learned behind a prompt that is not. `line` counts from 1; it is a record's
    number where the source has no lines."""

    source: str
    line: int
    messages: tuple[Message, ...] = ()
    prompt: str = ""
    text: str = ""

    @property
    def place(self) -> str:
        return f"{self.source}:{self.line}"

    def row(self) -> dict[str, Any]:
        """The sample as OpenAI's messages, or as prompt and completion, or as text."""
        if self.messages:
            return {"messages": [_message_row(message) for message in self.messages]}
        return {"prompt": self.prompt, "completion": self.text} if self.prompt else {"text": self.text}

    def to_line(self) -> str:
        """One line of JSON from which `from_line` makes the sample again."""
        return json.dumps({"source": self.source, "line": self.line, **self.row()}, ensure_ascii=False)

    @classmethod
    def from_line(cls, line: str) -> Self:
        row = json.loads(line)
        messages = tuple(Message(m["role"], m["content"], m.get("weight", 1) == 1) for m in row.get("messages", ()))
        return cls(
            row["source"], row["line"], messages, row.get("prompt", ""), row.get("completion") or row.get("text", "")
        )


def _message_row(message: Message) -> dict[str, Any]:
    row: dict[str, Any] = {"role": message.role, "content": message.content}
    return row if message.is_learned else row | {"weight": 0}
