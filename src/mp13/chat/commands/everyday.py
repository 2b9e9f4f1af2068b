"""The commands of every day: copy what was said, ask by a template, bring the engine up again."""

from typing import TYPE_CHECKING

from mp13.chat.commands.command import Command
from mp13.chat.commands.setups import values_of, words_of
from mp13.chat.conversation.ask import Ask
from mp13.chat.conversation.code_blocks import code_blocks
from mp13.chat.conversation.reasoning import answer_in
from mp13.chat.conversation.turn import CommandResult
from mp13.chat.settings.templates import find_template, template_names, templates_folder
from mp13.chat.text import number_in, printable
from mp13.errors import ConfigError

if TYPE_CHECKING:
    from mp13.chat.conversation.session import ChatSession

LAST_ANSWER = "last_answer"


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
    return CommandResult(f"copied: {_size(text)}", copied=printable(text))


def _copy_code(session: "ChatSession", number: str) -> CommandResult:
    blocks = [code for turn in session.turns if turn.role == "assistant" for code in code_blocks(answer_in(turn.text))]
    if not blocks:
        raise ConfigError("no answer has a block of code; /copy copies the last answer")
    place = number_in(number or str(len(blocks)), 1, len(blocks))
    if place is None:
        raise ConfigError(f"/copy code {number}: there is no such block; this branch has {len(blocks)}, from 1")
    code = printable(blocks[place - 1])
    return CommandResult(f"copied block {place} of {len(blocks)}: {_size(code)}", copied=code)


def _size(text: str) -> str:
    lines = text.rstrip("\n").count("\n") + 1
    return f"{lines:,} line{'s' if lines > 1 else ''}, {len(text):,} characters"


async def _template(session: "ChatSession", argument: str) -> CommandResult:
    name, *words = words_of("/template", argument) or [""]
    if not name:
        known = [find_template(name) for name in template_names()]
        lines = [f"{one.name}  {' '.join(f'{name}=…' for name in one.variables)}".rstrip() for one in known]
        nothing = f"no template yet; write one as {templates_folder() / 'NAME.md'}, with {{{{variables}}}} in it"
        return CommandResult("\n".join(lines) or nothing)
    template = find_template(name)
    values = known_values(session, template.variables) | values_of("/template", words)
    return CommandResult("", ask=Ask(template.filled(values)))


def known_values(session: "ChatSession", variables: list[str]) -> dict[str, str]:
    """Those of `variables` that the conversation has the values of."""
    answers = [turn for turn in session.turns if turn.role == "assistant"]
    known = {LAST_ANSWER: answer_in(answers[-1].text)} if answers else {}
    return {name: value for name, value in known.items() if name in variables}


async def _restart(session: "ChatSession", argument: str) -> CommandResult:
    await session.end_engine()
    return CommandResult("the engine starts anew", engine_changed=True)


def _template_choices(session: "ChatSession") -> list[str]:
    return template_names()


EVERYDAY_COMMANDS = (
    Command("/copy", "[N|code [N]]", "Copy the last answer, turn N, or a block of code.", _copy, lambda _: ["code"]),
    Command("/template", "[NAME [VARIABLE=VALUE…]]", "Ask by a template; alone, list.", _template, _template_choices),
    Command("/restart", "", "Bring the engine up anew, for instance after it ended.", _restart),
)
