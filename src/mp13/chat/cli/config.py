"""`mp13config`: show the settings and where they come from, examine the machine, or ask five questions."""

import json
import sys
from typing import Annotated, Any

import typer

from mp13.chat.cli.outcome import FAILURE, complain, outcome, prepare_streams
from mp13.chat.settings.load import config_file, load_settings
from mp13.chat.settings.schema import Settings
from mp13.chat.text import printable
from mp13.errors import ConfigError
from mp13.library.paths import adapters_dir, data_dir, models_dir

NAME = "mp13config"
app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
_AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.callback(invoke_without_command=True)
def config(context: typer.Context) -> None:
    """Show or make mp13's settings. Without a command: five questions when nothing is configured yet, else `show`."""
    if context.invoked_subcommand is not None:
        return
    if config_file().exists():
        show()
    else:
        wizard()


@app.command()
def show(as_json: _AsJson = False) -> None:
    """Every setting, its value, and where the value comes from."""
    with outcome(NAME):
        settings = load_settings()
        rows = [(key, _plain(getattr(settings, key)), settings.source(key)) for key in Settings.model_fields]
        if as_json:
            print(json.dumps([dict(zip(("key", "value", "source"), row, strict=True)) for row in rows], indent=2))
            return
        shown = [(key, "none" if value is None else json.dumps(value, ensure_ascii=False), s) for key, value, s in rows]
        widths = [max(len(row[column]) for row in shown) for column in (0, 1)]
        for key, value, source in shown:
            print(printable(f"{key:<{widths[0]}}  {value:<{widths[1]}}  {source}"))


@app.command()
def path(as_json: _AsJson = False) -> None:
    """Where mp13 keeps things."""
    with outcome(NAME):
        places = {
            "config": config_file(), "data": data_dir(), "models": models_dir(),
            "adapters": adapters_dir(), "conversations": data_dir() / "conversations.db",
        }  # fmt: skip
        if as_json:
            print(json.dumps({name: str(place) for name, place in places.items()}, indent=2))
            return
        for name, place in places.items():
            print(printable(f"{name:<13}  {place}"))


@app.command()
def doctor() -> None:
    """Examine Python, torch, folders, starter and engine; exit code 1 when something would fail."""
    from mp13.chat.cli.doctor import examine

    with outcome(NAME):
        marks = {"ok": "  ok ", "no": "  no ", "warn": "warn ", "fail": "FAIL "}
        failed = False
        for finding in examine():
            failed = failed or finding.mark == "fail"
            fix = f": {finding.fix}" if finding.fix else ""
            print(printable(f"{marks[finding.mark]} {finding.subject}: {finding.detail}{fix}"), flush=True)
        if failed:
            raise typer.Exit(FAILURE)


@app.command()
def wizard() -> None:
    """Ask five questions and write the configuration file."""
    from mp13.chat.wizard.questions import ask_all

    with outcome(NAME):
        if not (sys.stdin is not None and sys.stdin.isatty() and sys.stdout.isatty()):
            raise ConfigError(
                "nothing is configured and there is no terminal to ask on; every setting has a default "
                f"(`mp13config show`); to change one, write a line `key = value` into {config_file()}"
            )
        written = ask_all(_ask, complain)
        print(printable(f"written to {written}; `mp13config doctor` examines the machine, `mp13chat` starts the chat"))


def _ask(question: str, default: str) -> str:
    try:
        return str(typer.prompt(question, default=default))
    except typer.Abort:  # what Typer makes of Ctrl-C
        raise KeyboardInterrupt from None


def main() -> None:
    """The installed command."""
    prepare_streams()
    app(prog_name=NAME)


def _plain(value: Any) -> Any:
    """`value` as JSON and TOML would hold it."""
    if isinstance(value, tuple):
        return list(value)
    return value if isinstance(value, bool | int | float | str | dict | None) else str(value)


if __name__ == "__main__":
    main()
