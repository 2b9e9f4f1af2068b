"""`mp13 models`: list, pull, quantize, remove."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from mp13.chat.cli.outcome import outcome
from mp13.chat.cli.progress import Progress
from mp13.chat.library.shown import model_json, model_table, one_line, removed, size
from mp13.chat.settings.model import resolve_model
from mp13.library.models import list_models, pull_model, remove_model
from mp13.library.paths import models_dir
from mp13.library.quantizing import QuantizeRequest
from mp13.library.quantizing import quantize as quantize_model

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
def quantize(
    model: Annotated[str, typer.Argument(help="`starter`, a folder, a model in the data folder, or a Hub id.")],
    quantization: Annotated[str, typer.Option(help="hqq-8bit, hqq-4bit, hqq-3bit or hqq-2bit, or a table as JSON.")],
    output: Annotated[Path, typer.Option(metavar="DIR", help="The folder to make.")],
    dtype: Annotated[str, typer.Option(help="Of what stays unquantized: auto, float32, bfloat16 or float16.")] = "auto",
    device: Annotated[str, typer.Option(help="What computes: auto, cpu or cuda.")] = "auto",
    trust_remote_code: Annotated[bool, typer.Option("--trust-remote-code", help="Run the model's own code.")] = False,
    as_json: _AsJson = False,
) -> None:
    """Write a model anew with weights of few bits. It opens as any other, with no setting."""
    with outcome(PROGRAM):
        request = QuantizeRequest(resolve_model(model), quantization, str(output), dtype, device, trust_remote_code)
        with Progress(PROGRAM) as progress:
            report = quantize_model(request, progress)
        if as_json:
            print(json.dumps(asdict(report), indent=2))
        else:
            sizes = f"{size(report.size_bytes)} instead of {size(report.base_bytes)}"
            print(one_line(f"{report.quantization} in {report.path}, {sizes}; mp13chat --model {report.path}"))


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
