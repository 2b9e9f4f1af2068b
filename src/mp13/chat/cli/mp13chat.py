"""`mp13chat`: the chat on the screen, or one prompt or script without it. Settings become flags here.

argparse, not Typer: Typer alone takes a third of the time that a bare Textual app needs to paint.
"""

import argparse
import asyncio
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from mp13.chat.cli.outcome import outcome, prepare_streams
from mp13.chat.cli.piped import read_piped, stdin_is_terminal
from mp13.chat.settings.glance import glance
from mp13.chat.text import printable, utf8
from mp13.errors import ConfigError
from mp13.mix import BASE, parse_mix

if TYPE_CHECKING:
    from mp13.chat.settings.schema import Settings

NAME = "mp13chat"
LATEST = "latest"


def main() -> None:
    """The installed command."""
    prepare_streams()
    chat(_parser().parse_args([utf8(argument) for argument in sys.argv[1:]]))
    sys.exit()


def chat(given: argparse.Namespace) -> None:
    """Chat with a local model whose LoRA adapters are switched and mixed in the middle of a conversation."""
    with outcome(NAME):
        if given.version:
            _print_version()
            return
        log, plain = "false" if given.no_log else None, "true" if given.plain else None
        flags = _flags(given.set, model=given.model, adapter=given.adapter, log=log, plain=plain)
        if given.prompt is None and given.script is None and stdin_is_terminal():
            _on_terminal(flags, given)
        else:
            _headless(flags, given)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        super().error(printable(message))


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        NAME,
        description=chat.__doc__,
        epilog="Settings: `mp13config show` lists them. Text piped in is the prompt, or is added to that of -p.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("-p", "--prompt", metavar="TEXT", help="answer TEXT on stdout and end")
    add("--adapter", metavar="MIX", help="what answers: base, NAME, A:0.7+B:-0.3")
    add("--model", metavar="MODEL", help="`starter`, a folder, a GGUF file, or a Hub id")
    add("--compare", metavar="MIX", action="append", default=[], help="answer under each MIX given so, two or more")
    add(
        "--diff",
        metavar="MIX",
        nargs="?",
        const="",
        help="take the last answer apart, beside MIX; else beside the base",
    )
    add("--set", metavar="KEY=VALUE", action="append", default=[], help="set any setting; repeatable")
    add("--json", action="store_true", help="print each answer as one JSON object")
    add("--no-log", action="store_true", help="keep nothing of this conversation")
    add("--plain", action="store_true", help="chat in plain lines, without a screen")
    add("--script", metavar="FILE", type=Path, help="do FILE's lines: prompts and commands")
    add("--resume", metavar="ID", nargs="?", const=LATEST, help="go on with conversation ID; else the latest")
    add("--version", action="store_true", help="print the version and end")
    return parser


def _print_version() -> None:
    import mp13

    print(f"{NAME} {mp13.__version__}")


def _flags(assignments: list[str], **named: str | None) -> dict[str, str]:
    """`--set` and the flags with names of their own as settings.

    Raises:
        ConfigError: an assignment without `=`, or a setting given twice.
    """
    flags: dict[str, str] = {}
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        if not equals:
            raise ConfigError(f"--set {assignment!r} sets nothing; write --set key=value")
        flags[key.strip()] = value.strip()
    given = {key: value for key, value in named.items() if value is not None}
    if both := sorted(flags.keys() & given):
        raise ConfigError(f"{both[0]} is given twice, with --set and with its own flag; leave one out")
    return flags | given


def _on_terminal(flags: dict[str, str], given: argparse.Namespace) -> None:
    """Settings are loaded by the screen after its first frame, which needs a glance at a few."""
    asked = {"--json": given.json, "--compare": given.compare, "--diff": given.diff is not None}
    if flag := next((flag for flag, is_given in asked.items() if is_given), None):
        raise ConfigError(f"{flag} needs a prompt; give -p TEXT, --script FILE, or pipe the prompt in")
    if not sys.stdout.isatty():
        raise ConfigError("the chat needs a terminal, and stdout is none; give -p TEXT or --script FILE")
    load, look = partial(_load_settings, flags), glance(flags)
    if look.plain:
        from mp13.chat.cli.plain import chat_plainly
        from mp13.chat.conversation.session import ChatSession

        return chat_plainly(lambda: ChatSession.open(load(), given.resume))
    from mp13.chat.tui.app import run

    sys.exit(run(load, given.resume, look.theme))


def _headless(flags: dict[str, str], given: argparse.Namespace) -> None:
    from mp13.chat.cli.headless import Line, read_script, run_headless
    from mp13.chat.conversation.ask import compared
    from mp13.chat.conversation.session import ChatSession
    from mp13.chat.ending import unless_told_to_end

    if given.plain:
        raise ConfigError("--plain is for a chat on a terminal; what -p, --script or a pipe asks is plain anyway")
    if given.prompt is not None and given.script is not None:
        raise ConfigError("-p and --script exclude each other; put the prompt into the script")
    if given.compare and given.script is not None:
        raise ConfigError("--compare is for a prompt of -p; write a line /compare MIX MIX TEXT into the script")
    if len(given.compare) == 1:
        raise ConfigError(f"--compare {given.compare[0]} is alone; give --compare two different mixes or more")
    settings, mixes = _load_settings(flags), compared(given.compare)
    asked = given.script is None
    lines = [Line(_whole_prompt(given.prompt), mixes=mixes)] if asked else read_script(given.script)
    if given.diff is not None:
        parse_mix(given.diff or BASE)
        lines.append(Line(f"/diff {given.diff}", where="--diff"))
    work = run_headless(ChatSession.open(settings, given.resume), lines, given.json)
    if code := asyncio.run(unless_told_to_end(work)):
        sys.exit(code)


def _load_settings(flags: dict[str, str]) -> "Settings":
    from mp13.chat.settings.load import load_settings

    return load_settings(flags)


def _whole_prompt(prompt: str | None) -> str:
    """The prompt of `-p` with what was piped in under it, or what was piped in alone."""
    if prompt is not None and not prompt.strip():
        raise ConfigError("-p '' is an empty prompt; give it some text")
    whole = "\n\n".join(filter(None, (prompt, read_piped(optional=prompt is not None))))
    if not whole:
        raise ConfigError("there is no prompt: standard input is empty; give -p TEXT or pipe some text in")
    return whole


if __name__ == "__main__":
    main()
