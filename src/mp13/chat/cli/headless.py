"""The chat without a screen: prompts and commands in, one after the other. How answers are printed is printer.py's."""

import asyncio
from collections.abc import Coroutine, Iterable
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from mp13.chat.cli.clipboard import to_clipboard
from mp13.chat.cli.outcome import complain
from mp13.chat.cli.printer import Printer
from mp13.chat.commands.table import is_command, prompt_of
from mp13.chat.conversation.ask import Ask
from mp13.chat.conversation.session import ChatSession
from mp13.chat.conversation.turn import Asked, Keeping
from mp13.chat.settings.model import STARTER_NAMES
from mp13.errors import ConfigError, Mp13Error

T = TypeVar("T")


@dataclass(frozen=True)
class Line:
    """One thing to do. `where` is its place in a script, or the flag it comes from; "" for a prompt of the command
    line, in which a slash is a slash. With `mixes`, these answer it side by side.
    """

    text: str
    where: str = ""
    mixes: tuple[str, ...] = ()


def read_script(path: Path) -> list[Line]:
    """The lines of a script: a prompt or slash command each, blank lines and # comments left out.

    Raises:
        ConfigError: the file cannot be read, or there is no such line.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the script {str(path)!r} cannot be read ({error}); give a UTF-8 text file") from None
    numbered = ((number, line.strip()) for number, line in enumerate(lines, start=1))
    found = [Line(line, f"{path}:{number}") for number, line in numbered if line and not line.startswith("#")]
    if not found:
        raise ConfigError(f"the script {str(path)!r} says nothing to do; write a prompt or a command on each line")
    return found


async def run_headless(session: ChatSession, lines: Iterable[Line], as_json: bool) -> None:
    """Start the engine, then do `lines` one after the other. Raises the Mp13Error of the first that fails."""
    printer = Printer(as_json)
    if session.not_kept:
        printer.show(Keeping(session.not_kept))
    try:
        if session.settings.model not in STARTER_NAMES:  # whose adapters may come with it
            await session.set_mix(session.mix)  # refuses what is not on disk before the model loads
        async with aclosing(session.start()) as events:
            async for event in events:
                printer.show(event)
        await session.set_mix(session.mix)
        for line in lines:
            _remark(session, printer)
            if await _placed(line, _do(session, line, printer)):
                break
        _remark(session, printer)
    finally:
        if farewell := session.training.farewell:
            complain(f"mp13chat: {farewell}")
        await session.close()


async def _do(session: ChatSession, line: Line, printer: Printer) -> bool:
    """Do one line; whether it says to end."""
    if not (line.where and is_command(line.text)):
        await answered(session, Ask(prompt_of(line.text) if line.where else line.text, line.mixes), printer)
        return False
    session.watch(lambda: printer.how_far(session.training.state))  # a command may take long, and prints nothing
    try:
        result = await session.command(line.text)
    finally:
        session.watch(lambda: None)
    if result.copied is not None:
        to_clipboard(result.copied)
    if result.message:
        complain(result.message)
    if result.ask is not None:
        await answered(session, result.ask, printer)
    if result.diff is not None:
        printer.diff(result.diff)
    if result.report is not None:
        printer.report(result.report)
    return result.quit


def _remark(session: ChatSession, printer: Printer) -> None:
    """What is new since the last line."""
    printer.remark(session.remarks)
    for sentence in session.training.take_news():
        complain(f"mp13chat: {sentence}")


async def _placed(line: Line, work: Coroutine[None, None, T]) -> T:
    """`work`, whose error says where in the script it is."""
    try:
        return await work
    except Mp13Error as error:
        if line.where:
            error.args = (f"{line.where}: {error}",)
        raise


async def answered(session: ChatSession, ask: Ask, printer: Printer) -> None:
    """Print the answers. What had come of them is printed too when they end by an error or are cancelled."""
    before: set[str] = set()
    try:
        async with aclosing(session.answer(ask)) as events:
            async for event in events:
                if isinstance(event, Asked):
                    before = {turn.id for turn in session.answers}
                printer.show(event)
    except (asyncio.CancelledError, Mp13Error):
        printer.cut_off(turn for turn in session.answers if turn.id not in before)
        raise
