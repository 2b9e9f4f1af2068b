"""The chat in plain lines, without a screen: for screen readers, and for terminals that can do nothing else.

A prompt or slash command a line; answers stream as text, each with its badge under it. Nothing is drawn or redrawn.
"""

from collections.abc import Callable, Coroutine, Iterator
from contextlib import aclosing, contextmanager, suppress
from dataclasses import replace
from typing import Any

from mp13.chat.cli.background import Background
from mp13.chat.cli.clipboard import to_clipboard
from mp13.chat.cli.headless import answered
from mp13.chat.cli.printer import Printer
from mp13.chat.commands.table import complete, is_command, prompt_of
from mp13.chat.conversation.ask import Ask
from mp13.chat.conversation.badge import badge
from mp13.chat.conversation.remarks import keeping_text
from mp13.chat.conversation.session import ChatSession
from mp13.chat.conversation.turn import EngineFailed
from mp13.chat.ending import exit_when_told_to_end
from mp13.chat.text import printable
from mp13.errors import ContextError, Mp13Error

GREETING = "mp13chat in plain lines. /help lists the commands; Ctrl+C stops an answer; Ctrl+D or /quit ends the chat."
_SHOWN = 6  # turns of a conversation that is gone on with

Read = Callable[[str], str]


def chat_plainly(open_session: Callable[[], ChatSession], read: Read = input) -> None:
    """Chat until the reader leaves. `read` asks for a line, as `input` does; Ctrl+C in it ends the line, not the chat.

    Raises what `open_session` does, and SystemExit when this process is told to end.
    """

    async def opened() -> ChatSession:
        return open_session()

    with Background() as background:
        session = background.run(opened())
        try:
            with exit_when_told_to_end():
                PlainChat(background, session, read).run()
        finally:
            background.run(session.close())


class PlainChat:
    def __init__(self, background: Background, session: ChatSession, read: Read) -> None:
        self._background = background
        self._session = session
        self._read = read
        self._printer = Printer(as_json=False, plain=True)
        self._asked: Ask | None = None  # the last

    def run(self) -> None:
        _say(GREETING)
        if self._session.not_kept:
            _say(keeping_text(self._session.not_kept))
        self._show_path()
        self._do(self._start)
        with _completing(self._complete):
            while (line := self._line(f"{self._session.mix}> ")) is not None:
                if line.strip() and self._do(self._serve, line):
                    break
        if farewell := self._session.training.farewell:
            _say(farewell)

    def _line(self, prompt: str) -> str | None:
        """The next line; one that ends with a backslash goes on with the next. None when there are no more."""
        lines: list[str] = []
        while True:
            try:
                line = self._read(printable("... " if lines else prompt))
            except EOFError:
                _say("")
                return None
            except KeyboardInterrupt:
                _say("\nCtrl+D or /quit ends the chat.")
                lines.clear()
                continue
            lines.append(line.removesuffix("\\"))
            if not line.endswith("\\"):
                return "\n".join(lines)

    def _do(self, what: Callable[..., Coroutine[Any, Any, bool | None]], *arguments: object) -> bool:
        """Do it; whether the chat is to end. What goes wrong is said, and the chat goes on."""
        try:
            return bool(self._background.run(what(*arguments)))
        except KeyboardInterrupt:
            _say("stopped")
        except ContextError as error:
            _say(str(error))
            return self._offer_to_drop()
        except Mp13Error as error:
            _say(str(error))
        return False

    async def _start(self) -> None:
        async with aclosing(self._session.start()) as events:
            async for event in events:
                if isinstance(event, EngineFailed):
                    _say(event.message)
                else:
                    self._printer.show(event)
        with suppress(Mp13Error):
            await self._session.set_mix(self._session.mix)

    async def _serve(self, line: str) -> bool:
        self._printer.remark(self._session.remarks)
        for sentence in self._session.training.take_news():
            _say(sentence)
        if not is_command(line):
            await self._answer(Ask(prompt_of(line)))
            return False
        result = await self._session.command(line)
        if result.turns_changed:
            self._show_path()
        if result.copied is not None:
            to_clipboard(result.copied)
        if result.message:
            _say(result.message)
        if result.ask is not None:
            await self._answer(result.ask)
        if result.diff is not None:
            self._printer.diff(result.diff)
        if result.report is not None:
            self._printer.report(result.report)
        if result.engine_changed:
            await self._start()
        return result.quit

    async def _answer(self, ask: Ask) -> None:
        self._asked = ask
        await answered(self._session, ask, self._printer)

    def _offer_to_drop(self) -> bool:
        """The context is full: the prompt may be asked again without the oldest exchanges."""
        asked, prompts = self._asked, [turn for turn in self._session.turns if turn.role == "user"]
        if asked is None or asked.drops_oldest or len(prompts) < 2:
            return False
        answer = self._line("Leave out the oldest exchanges, and ask again? [y/N] ")
        if answer is None or not answer.strip().lower().startswith("y"):
            return answer is None
        return self._do(self._answer, replace(asked, text=None, turn=prompts[-1].id, drops_oldest=True))

    def _show_path(self) -> None:
        """The end of the conversation as it is now."""
        turns = self._session.turns
        if len(turns) > _SHOWN:
            _say(f"({len(turns) - _SHOWN} earlier turns; /turns lists them)")
        for turn in turns[-_SHOWN:]:
            _say(f"You: {turn.text}" if turn.role == "user" else f"{turn.text}\n[{badge(turn)}]")

    def _complete(self, line: str) -> list[str]:
        async def found() -> list[str]:
            return complete(self._session, line)

        return self._background.run(found())


def _say(text: str) -> None:
    print(printable(text), flush=True)


@contextmanager
def _completing(candidates: Callable[[str], list[str]]) -> Iterator[None]:
    """While it runs, Tab completes a slash command and the arrow keys bring earlier lines back, where Python has
    readline. Nothing of it is kept on disk."""
    try:
        import readline
    except ImportError:  # Windows
        yield
        return

    found: list[str] = []

    def completer(text: str, state: int) -> str | None:
        if state == 0:
            found[:] = candidates(text)
        return found[state] if state < len(found) else None

    readline.set_completer(completer)
    readline.set_completer_delims("")
    readline.parse_and_bind("tab: complete")
    try:
        yield
    finally:
        readline.set_completer(None)
