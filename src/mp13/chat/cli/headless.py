"""The chat without a screen: prompts and commands in, answers on stdout, everything else on stderr."""

import asyncio
import json
import sys
from collections.abc import Coroutine, Iterable
from contextlib import aclosing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

from mp13.chat.cli.outcome import complain
from mp13.chat.commands.table import is_command, prompt_of
from mp13.chat.conversation.badge import badge
from mp13.chat.conversation.session import ChatSession
from mp13.chat.conversation.turn import (
    AnswerDone,
    EngineFailed,
    EngineReady,
    LoadProgress,
    SessionEvent,
    TextDelta,
    Turn,
)
from mp13.chat.settings.model import STARTER_NAMES
from mp13.chat.text import printable
from mp13.errors import ConfigError, Mp13Error

T = TypeVar("T")


@dataclass(frozen=True)
class Line:
    """One thing to do. `where` is its place in a script, "" for a prompt of the command line."""

    text: str
    where: str = ""


def read_script(path: Path) -> list[Line]:
    """The lines of a script: a prompt or slash command each, blank lines and # comments left out.

    Raises:
        ConfigError: the file cannot be read.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the script {str(path)!r} cannot be read ({error}); give a UTF-8 text file") from None
    numbered = ((number, line.strip()) for number, line in enumerate(lines, start=1))
    return [Line(line, f"{path}:{number}") for number, line in numbered if line and not line.startswith("#")]


async def run_headless(session: ChatSession, lines: Iterable[Line], as_json: bool) -> None:
    """Start the engine, then do `lines` one after the other. Raises the Mp13Error of the first that fails."""
    printer = Printer(as_json)
    try:
        if session.settings.model not in STARTER_NAMES:  # whose adapters may come with it
            await session.set_mix(session.mix)  # refuses what is not on disk before the model loads
        async with aclosing(session.start()) as events:
            async for event in events:
                printer.show(event)
        await session.set_mix(session.mix)
        for warning in session.warnings:
            complain(f"mp13chat: {warning}")
        for line in lines:
            if line.where and is_command(line.text):
                result = await _placed(line, session.command(line.text))
                if result.message:
                    complain(result.message)
                if result.quit:
                    break
            else:
                await _placed(line, _answer(session, line, printer))
    finally:
        await session.close()


async def _placed(line: Line, work: Coroutine[None, None, T]) -> T:
    """`work`, whose error says where in the script it is."""
    try:
        return await work
    except Mp13Error as error:
        raise type(error)(f"{line.where}: {error}" if line.where else str(error)) from None


async def _answer(session: ChatSession, line: Line, printer: "Printer") -> None:
    before = len(session.turns)
    try:
        async with aclosing(session.ask(prompt_of(line.text) if line.where else line.text)) as events:
            async for event in events:
                printer.show(event)
    except (asyncio.CancelledError, Mp13Error):
        printer.cut_off(session.turns[before + 1] if len(session.turns) > before + 1 else None)
        raise


class Printer:
    """Draws a session's events. Text streams unless answers are printed as JSON objects."""

    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json
        self._stage = ""

    def show(self, event: SessionEvent) -> None:
        match event:
            case LoadProgress(stage, fraction):
                self._progress(stage, fraction)
            case EngineReady(info):
                self._clear_progress()
                for note in info.notes:
                    complain(f"mp13chat: {note}")
            case EngineFailed(error):
                self._clear_progress()
                raise error
            case TextDelta(text):
                if not self._as_json:
                    self._out(printable(text))
            case AnswerDone(turn):
                self._finish(turn)

    def cut_off(self, turn: Turn | None) -> None:
        """An answer ended before its end; `turn` is what came."""
        if turn is not None:
            self._finish(turn)

    def _finish(self, turn: Turn) -> None:
        self._out((as_json(turn) if self._as_json else "") + "\n")
        if not self._as_json:
            complain(f"[{badge(turn)}]")

    def _out(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    def _progress(self, stage: str, fraction: float | None) -> None:
        if sys.stderr.isatty():
            percent = "" if fraction is None else f" {fraction:.0%}"
            sys.stderr.write(f"\r\x1b[K{printable(stage)}{percent}")
            sys.stderr.flush()
        elif stage != self._stage:
            complain(f"mp13chat: {stage}")
        self._stage = stage

    def _clear_progress(self) -> None:
        if self._stage and sys.stderr.isatty():
            sys.stderr.write("\r\x1b[K")
        self._stage = ""


def as_json(turn: Turn) -> str:
    """One line of ASCII, so that no character of an answer can act on a terminal."""
    return json.dumps(
        {
            "text": turn.text,
            "token_ids": turn.token_ids,
            "finish_reason": turn.finish_reason,
            "adapters": turn.mix,
            "provenance": turn.provenance and turn.provenance.model_dump(mode="json"),
            "metrics": turn.metrics and asdict(turn.metrics),
        }
    )
