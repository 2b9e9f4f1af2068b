"""The commands of every day: copy what was said, and bring the engine up again."""

from typing import TYPE_CHECKING

from mp13.chat.commands.command import Command
from mp13.chat.conversation.reasoning import answer_in
from mp13.chat.conversation.turn import CommandResult
from mp13.errors import ConfigError

if TYPE_CHECKING:
    from mp13.chat.conversation.session import ChatSession


async def _copy(session: "ChatSession", argument: str) -> CommandResult:
    word, _, number = argument.partition(" ")
    if word == "code":
        return _copy_code(session, number.strip())
    if argument:
        turn = session.tree.turn(argument)
    else:
        answers = [turn for turn in session.turns if turn.role == "assistant"]
        if not answers:
            raise ConfigError("there is no answer to copy yet; ask something first")
        turn = answers[-1]
    text = answer_in(turn.text) if turn.role == "assistant" else turn.text
    return CommandResult(f"copied: {_size(text)}", copied=text)


def _copy_code(session: "ChatSession", number: str) -> CommandResult:
    blocks = [code for turn in session.turns if turn.role == "assistant" for code in _code_blocks(answer_in(turn.text))]
    if not blocks:
        raise ConfigError("no answer has a block of code; /copy copies the last answer")
    if number and not (number.isascii() and number.isdigit() and 1 <= int(number) <= len(blocks)):
        raise ConfigError(f"/copy code {number}: there is no such block; this branch has {len(blocks)}, from 1")
    place = int(number or len(blocks))
    return CommandResult(f"copied block {place} of {len(blocks)}: {_size(blocks[place - 1])}", copied=blocks[place - 1])


def _code_blocks(text: str) -> list[str]:
    from markdown_it import MarkdownIt

    tokens = MarkdownIt("commonmark").parse(text)
    return [token.content for token in tokens if token.type in ("fence", "code_block") and token.content]


def _size(text: str) -> str:
    lines = text.rstrip("\n").count("\n") + 1
    return f"{lines:,} line{'s' if lines > 1 else ''}, {len(text):,} characters"


async def _restart(session: "ChatSession", argument: str) -> CommandResult:
    await session.let_engine_go()
    return CommandResult("the engine starts anew", engine_changed=True)


EVERYDAY_COMMANDS = (
    Command("/copy", "[N|code [N]]", "Copy the last answer, turn N, or a block of code.", _copy, lambda _: ["code"]),
    Command("/restart", "", "Bring the engine up anew, for instance after it ended.", _restart),
)
