"""`mp13`: what is on disk, and what runs. Adapters and models are listed, fetched, checked, merged and removed here,
engines listed and stopped, training data checked, adapters trained, conversations found, exported and forgotten.

The verbs themselves are adapters_cli.py, adapters_engine_cli.py, evaluate.py, models_cli.py, engines_cli.py,
data_cli.py, train_cli.py, runs_cli.py and history_cli.py; what they do is the library's, and the service's.
"""

from typing import Annotated

import typer

from mp13.chat.cli import data_cli, engines_cli, evaluate, history_cli, models_cli, runs_cli
from mp13.chat.cli.usage import run_command

NAME = "mp13"
app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False, no_args_is_help=True)
app.add_typer(evaluate.app, name="adapters")
app.add_typer(models_cli.app, name="models")
app.add_typer(engines_cli.app)
app.add_typer(data_cli.app, name="data")
app.add_typer(history_cli.app, name="history")
app.add_typer(runs_cli.app, name="train")


@app.callback(invoke_without_command=True)
def mp13(version: Annotated[bool, typer.Option("--version", help="Print the version and end.")] = False) -> None:
    """Adapters, models and engines on this machine. `mp13chat` talks to them, `mp13config` shows the settings."""
    if version:
        import mp13

        print(f"{NAME} {mp13.__version__}")
        raise typer.Exit


def main() -> None:
    """The installed command."""
    run_command(app, NAME)


if __name__ == "__main__":
    main()
