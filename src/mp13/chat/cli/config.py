"""`mp13config`: shows, changes and checks settings, and examines the machine. Alone on a terminal it is the wizard.

What the verbs do is the settings' own (chat/settings/); what they print is here, as text or as JSON.
"""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from mp13.chat.cli.outcome import FAILURE, INTERRUPTED, complain, outcome
from mp13.chat.cli.piped import stdin_is_terminal
from mp13.chat.cli.usage import run_command
from mp13.chat.settings.load import PROJECT_FILE, check_key, config_file, load_settings
from mp13.chat.settings.problems import Problem, is_project_file, problems_in, read_text
from mp13.chat.settings.profiles import profile_names
from mp13.chat.settings.schema import Settings
from mp13.chat.settings.user_file import Written, make_file, set_value, unset_value
from mp13.chat.text import printable
from mp13.errors import ConfigError, Mp13Error
from mp13.library.paths import adapters_dir, data_dir, models_dir

NAME = "mp13config"
app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
_AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_Profile = Annotated[str | None, typer.Option(help=f"Set what a ready one sets: {', '.join(profile_names())}.")]
_Key = Annotated[str, typer.Argument(metavar="KEY", help="A setting; `mp13config show` lists them.")]
_NEGATIVE_NUMBERS = {"ignore_unknown_options": True}  # or they would be taken for flags


@app.callback(invoke_without_command=True)
def config(context: typer.Context) -> None:
    """Show or change mp13's settings. Without a command: the wizard on a terminal, else `show`."""
    if context.invoked_subcommand is not None:
        return
    if stdin_is_terminal() and sys.stdout.isatty():
        _wizard()
    elif config_file().exists():
        show()
    else:
        with outcome(NAME):
            raise ConfigError(
                "nothing is configured and there is no terminal for the wizard; every setting has a default "
                f"(`{NAME} show`); to change one: `{NAME} set KEY VALUE`; `{NAME} init` writes {config_file()} "
                "with all of them explained"
            )


@app.command()
def init(
    profile: Annotated[
        str | None, typer.Option(help=f"Set what a ready one sets: {', '.join(profile_names())}.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file; the old one is kept beside it.")] = False,
    as_json: _AsJson = False,
) -> None:
    """Write your configuration file, every setting explained in it."""
    with outcome(NAME):
        written = make_file(profile, replace=force)
        _tell(
            {"path": str(written.path), "profile": profile, "backup": written.backup and str(written.backup)},
            f"{_written(written)}; `mp13chat` starts the chat",
            as_json,
        )


@app.command()
def get(key: _Key, as_json: _AsJson = False) -> None:
    """Print the value of a setting, as a chat started here would have it."""
    with outcome(NAME):
        check_key(key)
        settings = load_settings()
        _tell(_row(settings, key), _as_text(getattr(settings, key)), as_json)


@app.command("set", context_settings=_NEGATIVE_NUMBERS)
def set_(
    key: _Key,
    value: Annotated[str, typer.Argument(metavar="VALUE", help="As after `--set KEY=`; `none` for nothing.")],
    as_json: _AsJson = False,
) -> None:
    """Set a setting in your configuration file. Comments and layout stay as they are."""
    with outcome(NAME):
        written = set_value(key, value)
        _tell(
            {"key": key, "value": _plain(written), "path": str(config_file())},
            f"{key} = {_as_json(_plain(written))} in {config_file()}",
            as_json,
        )
        _warn_if_overridden(key)


@app.command()
def unset(key: _Key, as_json: _AsJson = False) -> None:
    """Take a setting out of your configuration file, so that its default holds again."""
    with outcome(NAME):
        was_there = unset_value(key)
        default = Settings.model_fields[key].get_default(call_default_factory=True)
        if was_there:
            text = f"{key} is no longer set in {config_file()}; its default is {_as_json(_plain(default))}"
        else:
            text = f"{key} is not set in {config_file()}; nothing was changed"
        _tell({"key": key, "changed": was_there, "path": str(config_file())}, text, as_json)
        _warn_if_overridden(key)


@app.command()
def show(
    origin: Annotated[bool, typer.Option("--origin", help="Where each value comes from, too.")] = False,
    as_json: _AsJson = False,
) -> None:
    """Every setting and its value."""
    with outcome(NAME):
        settings = load_settings()
        rows = [_row(settings, key) for key in Settings.model_fields]
        columns = ("key", "value", "source") if origin else ("key", "value")
        _tell(rows, _columns(rows, columns), as_json)


@app.command()
def diff(as_json: _AsJson = False) -> None:
    """The settings that differ from their defaults, and where that comes from."""
    with outcome(NAME):
        settings = load_settings()
        rows = []
        for key, field in Settings.model_fields.items():
            default = field.get_default(call_default_factory=True)
            if getattr(settings, key) != default:
                rows.append({**_row(settings, key), "default": _plain(default)})
        text = _columns(rows, ("key", "default", "value", "source")) if rows else "nothing differs from the defaults"
        _tell(rows, text, as_json)


@app.command()
def validate(
    file: Annotated[Path | None, typer.Argument(help=f"Else your own, and ./{PROJECT_FILE}.")] = None,
    as_json: _AsJson = False,
) -> None:
    """Say what is wrong with a file of settings, by line; exit code 1 when something is."""
    with outcome(NAME):
        files = [file] if file is not None else [path for path in (config_file(), PROJECT_FILE) if path.exists()]
        found = {path: problems_in(read_text(path), of_project=is_project_file(path)) for path in files}
        problems = [(path, problem) for path, several in found.items() for problem in several]
        data = {
            "valid": not problems,
            "files": [str(path) for path in files],
            "problems": [_problem_json(path, problem) for path, problem in problems],
        }
        lines = [f"{path}:{problem.line}: {problem.message}" for path, problem in problems]
        lines += [f"{path}: all settings can be used" for path in files if not found[path]]
        _tell(data, "\n".join(lines) or f"there is no file to check; {config_file()} does not exist", as_json)
        if problems:
            raise typer.Exit(FAILURE)


@app.command()
def path(as_json: _AsJson = False) -> None:
    """Where mp13 keeps things."""
    with outcome(NAME):
        places = {
            "config": config_file(), "data": data_dir(), "models": models_dir(),
            "adapters": adapters_dir(), "conversations": data_dir() / "conversations.db",
        }  # fmt: skip
        text = "\n".join(f"{name:<13}  {place}" for name, place in places.items())
        _tell({name: str(place) for name, place in places.items()}, text, as_json)


@app.command()
def doctor(as_json: _AsJson = False) -> None:
    """Examine Python, torch, folders, starter and engine; exit code 1 when something would fail."""
    from mp13.chat.cli.doctor import examine, finding_json, finding_line

    with outcome(NAME):
        findings = []
        for finding in examine():
            findings.append(finding)
            if not as_json:
                print(printable(finding_line(finding)), flush=True)
        if as_json:
            print(_as_json([finding_json(finding) for finding in findings], indent=2))
        if any(finding.mark == "fail" for finding in findings):
            raise typer.Exit(FAILURE)


def _wizard() -> None:
    from mp13.chat.wizard.app import run

    with outcome(NAME):
        written = run()
        if written is None:
            complain(f"{NAME}: nothing was written")
            raise SystemExit(INTERRUPTED)
        print(printable(f"{_written(written)}; `mp13chat` starts the chat"))


def main() -> None:
    """The installed command."""
    run_command(app, NAME)


def _tell(data: Any, text: str, as_json: bool) -> None:
    print(_as_json(data, indent=2) if as_json else printable(text))


def _as_json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _row(settings: Settings, key: str) -> dict[str, Any]:
    return {"key": key, "value": _plain(getattr(settings, key)), "source": settings.source(key)}


def _plain(value: Any) -> Any:
    """`value` as JSON and TOML would hold it."""
    if isinstance(value, tuple):
        return list(value)
    return value if isinstance(value, bool | int | float | str | dict | None) else str(value)


def _as_text(value: Any) -> str:
    """`value` as `set` takes it."""
    plain = _plain(value)
    return plain if isinstance(plain, str) else "none" if plain is None else _as_json(plain)


def _columns(rows: list[dict[str, Any]], columns: tuple[str, ...]) -> str:
    shown = [[_cell(name, row[name]) for name in columns] for row in rows]
    widths = [max(len(line[column]) for line in shown) for column in range(len(columns))]
    padded = ("  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)) for line in shown)
    return "\n".join(line.rstrip() for line in padded)


def _cell(column: str, value: Any) -> str:
    """Values as JSON, so that text and number can be told apart; keys and sources as they are."""
    if column in ("key", "source"):
        return str(value)
    return "none" if value is None else _as_json(value)


def _written(written: Written) -> str:
    kept = f" (the old one is {written.backup})" if written.backup else ""
    return f"written to {written.path}{kept}"


def _problem_json(path: Path, problem: Problem) -> dict[str, Any]:
    return {"file": str(path), "line": problem.line, "key": problem.key, "message": problem.message}


def _warn_if_overridden(key: str) -> None:
    """Where something else wins here, a reader who looks for the change should know."""
    try:
        source = load_settings().source(key)
    except Mp13Error:  # what is wrong elsewhere is not this verb's to say
        return
    if source not in (str(config_file()), "default"):
        complain(f"{NAME}: here {source} sets {key}, and wins over {config_file()}")


if __name__ == "__main__":
    main()
