"""`mp13 models`: list, pull, remove."""

import json
from typing import Annotated

import typer

from mp13.chat.cli.outcome import outcome
from mp13.chat.cli.progress import Progress
from mp13.chat.library.shown import model_json, model_table, one_line, removed, size
from mp13.library.models import list_models, pull_model, remove_model
from mp13.library.paths import models_dir

PROGRAM = "mp13 models"
app = typer.Typer(no_args_is_help=True, help="The models in the data folder and in the Hugging Face cache.")
_AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("list")
def list_(as_json: _AsJson = False) -> None:
    """List the models on this machine."""
    with outcome(PROGRAM):
        models = list_models()
        if as_json:
            print(json.dumps([model_json(model) for model in models], indent=2))
        elif models:
            print(model_table(models))
        else:
            print(one_line(f"no model yet in {models_dir()}; `mp13 models pull org/name` fetches one"))


@app.command()
def pull(
    what: Annotated[str, typer.Argument(metavar="ORG/NAME[@REVISION]", help="A repository of the Hugging Face Hub.")],
    replace: Annotated[bool, typer.Option("--replace", help="Fetch it anew in place of the one that is here.")] = False,
    as_json: _AsJson = False,
) -> None:
    """Fetch a model from the Hub. Only safetensors, pinned to one commit; what was cut off goes on where it stopped."""
    with outcome(PROGRAM):
        with Progress(PROGRAM) as progress:
            model = pull_model(what, replace_it=replace, progress=progress)
        if as_json:
            print(json.dumps(model_json(model), indent=2))
        else:
            at = f" at {model.revision[:12]}" if model.revision else ""
            print(
                one_line(f"{model.name}{at}, {size(model.size_bytes)}, in {model.path}; mp13chat --model {model.name}")
            )


@app.command()
def remove(
    name: Annotated[str, typer.Argument(help="A name that `mp13 models list` shows.")], as_json: _AsJson = False
) -> None:
    """Delete a model from the data folder. The Hugging Face cache is left alone."""
    with outcome(PROGRAM):
        model = remove_model(name)
        if as_json:
            print(json.dumps(model_json(model), indent=2))
        else:
            print(removed(model))
