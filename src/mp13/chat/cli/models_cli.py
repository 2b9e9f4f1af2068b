"""`mp13 models`: list, pull, fit, quantize, remove."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from mp13.chat.cli.doctor import surveyed
from mp13.chat.cli.outcome import outcome
from mp13.chat.cli.progress import Progress
from mp13.chat.library.shown import fit_json, fit_table, model_json, model_table, removed, size
from mp13.chat.settings.load import load_settings
from mp13.chat.settings.model import resolve_model
from mp13.chat.text import one_line
from mp13.engine.sizes import parse_size
from mp13.errors import ConfigError
from mp13.library.fit import fits_by_quantization
from mp13.library.machine import Room, computer, room_here
from mp13.library.models import list_models, model_folder, pull_model, remove_model
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
def fit(
    name: Annotated[str, typer.Argument(metavar="MODEL", help="A folder, or a name that `mp13 models list` shows.")],
    quantization: Annotated[str | None, typer.Option(help="Only this one, not each.")] = None,
    max_model_len: Annotated[int | None, typer.Option(help="The context that is to fit, in tokens.")] = None,
    max_num_seqs: Annotated[int | None, typer.Option(help="Answers computed together.")] = None,
    memory: Annotated[str | None, typer.Option(help="Such as 8GiB; else this machine's GPU, or main memory.")] = None,
    cpu: Annotated[bool, typer.Option("--cpu", help="Main memory, though there is a GPU.")] = False,
    as_json: _AsJson = False,
) -> None:
    """Estimate what a model takes, and the context that fits. Every other setting is the one you have configured."""
    with outcome(PROGRAM):
        flags = {"model": name, "max_model_len": max_model_len, "max_num_seqs": max_num_seqs}
        settings = load_settings({key: value for key, value in flags.items() if value is not None})
        config = settings.engine_config()
        room = _memory(memory, config.gpu_memory_utilization, cpu=cpu or settings.device == "cpu")
        available, on_gpu = room.memory, room.on_gpu
        found = fits_by_quantization(
            model_folder(config.model), config, available, on_gpu=on_gpu, cpu_itemsize=room.cpu_itemsize,
            quantization=quantization,
        )  # fmt: skip
        if as_json:
            fits = {key: fit_json(value, config.max_model_len) for key, value in found.items()}
            print(json.dumps({"model": name, "memory": available, "on_gpu": on_gpu, "fits": fits}, indent=2))
            return
        where = f"{config.gpu_memory_utilization:.0%} of {size(available)} of a GPU" if on_gpu else size(available)
        print(fit_table(found, config.max_model_len))
        print(one_line(f"in {where}, with room for {config.max_loras} adapters and {config.max_num_seqs} answers"))


def _memory(text: str | None, share: float, *, cpu: bool) -> Room:
    """What `text` says, else what is free here."""
    if text is None:
        return room_here(computer(), surveyed(), share, on_cpu=cpu)
    if not (given := parse_size(text)):
        raise ConfigError(f"--memory {text} cannot be used; give bytes, or a size such as 8GiB")
    return Room(given, on_gpu=not cpu)


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
