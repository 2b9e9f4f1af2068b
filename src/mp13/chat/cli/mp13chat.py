"""`mp13chat`: the chat on the screen, or one prompt or script without it. Settings become flags here."""

import asyncio
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mp13.chat.cli.outcome import outcome, prepare_streams
from mp13.chat.cli.piped import read_piped, stdin_is_terminal
from mp13.chat.text import utf8
from mp13.errors import ConfigError

if TYPE_CHECKING:
    from mp13.chat.settings.schema import Settings

NAME = "mp13chat"
LATEST = "latest"
app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


def _option(*names: str, help: str, metavar: str | None = None) -> Any:
    return typer.Option(*names, help=help, metavar=metavar)


Prompt = Annotated[str | None, _option("-p", "--prompt", help="Answer TEXT on stdout and end.", metavar="TEXT")]
Adapter = Annotated[str | None, _option("--adapter", help="What answers: base, NAME, A:0.7+B:-0.3.", metavar="MIX")]
Model = Annotated[str | None, _option("--model", help="`starter`, a folder, or a Hub id.", metavar="MODEL")]
Assignments = Annotated[list[str] | None, _option("--set", help="Set any setting; repeatable.", metavar="KEY=VALUE")]
AsJson = Annotated[bool, _option("--json", help="Print each answer as one JSON object.")]
NoLog = Annotated[bool, _option("--no-log", help="Keep nothing of this conversation.")]
Script = Annotated[Path | None, _option("--script", help="Do FILE's lines: prompts and commands.", metavar="FILE")]
Resume = Annotated[str | None, _option("--resume", help="Go on with conversation ID; else the latest.", metavar="[ID]")]
Version = Annotated[bool, _option("--version", help="Print the version and end.")]


@app.command(epilog="Settings: `mp13config show` lists them. Text piped in is the prompt, or is added to that of -p.")
def chat(
    prompt: Prompt = None,
    adapter: Adapter = None,
    model: Model = None,
    assignments: Assignments = None,
    as_json: AsJson = False,
    no_log: NoLog = False,
    script: Script = None,
    resume: Resume = None,
    version: Version = False,
) -> None:
    """Chat with a local model whose LoRA adapters are switched and mixed in the middle of a conversation."""
    with outcome(NAME):
        if version:
            _print_version()
            return
        flags = _flags(assignments or [], model=model, adapter=adapter, log="false" if no_log else None)
        if prompt is None and script is None and stdin_is_terminal():
            _on_screen(flags, resume, as_json)
        else:
            _headless(flags, prompt, script, resume, as_json)


def main() -> None:
    """The installed command."""
    prepare_streams()
    app(args=_with_resume_value([utf8(argument) for argument in sys.argv[1:]]), prog_name=NAME)


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


def _with_resume_value(arguments: list[str]) -> list[str]:
    """`--resume` alone means the latest; Typer knows no option whose value may be left out."""
    filled = list(arguments)
    for at, argument in reversed(list(enumerate(arguments))):
        alone = at + 1 == len(arguments) or arguments[at + 1].startswith("-")
        if argument == "--resume" and alone:
            filled.insert(at + 1, LATEST)
    return filled


def _on_screen(flags: dict[str, str], resume: str | None, as_json: bool) -> None:
    """Settings are loaded by the screen after its first frame."""
    if as_json:
        raise ConfigError("--json needs a prompt; give -p TEXT, --script FILE, or pipe the prompt in")
    if not sys.stdout.isatty():
        raise ConfigError("the chat's screen needs a terminal, and stdout is none; give -p TEXT or --script FILE")
    from mp13.chat.tui.app import run

    raise typer.Exit(run(partial(_load_settings, flags), resume=resume))


def _headless(
    flags: dict[str, str], prompt: str | None, script: Path | None, resume: str | None, as_json: bool
) -> None:
    from mp13.chat.cli.headless import Line, read_script, run_headless
    from mp13.chat.conversation.session import ChatSession

    if prompt is not None and script is not None:
        raise ConfigError("-p and --script exclude each other; put the prompt into the script")
    settings = _load_settings(flags)
    lines = read_script(script) if script is not None else [Line(_whole_prompt(prompt))]
    asyncio.run(run_headless(ChatSession.open(settings, resume), lines, as_json))


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
