"""`mp13 data`: check, preview, convert. What is found is library/data's, how it looks chat/library/data_view.py's."""

import json
import sys
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Annotated, Literal

import typer

from mp13.chat.cli.outcome import USAGE, complain, outcome
from mp13.chat.cli.progress import Progress
from mp13.chat.library.data_view import check_json, check_text, preview_json, preview_text
from mp13.chat.library.stored_data import SOURCES, data_set
from mp13.chat.settings.load import load_settings
from mp13.chat.settings.model import STARTER_NAMES
from mp13.chat.text import printable
from mp13.engine.config import EngineConfig
from mp13.engine.training.rendering.request import RenderReport
from mp13.engine.training.sample import Sample
from mp13.library.data.check import CheckReport, Tokenizer, check
from mp13.library.data.formats import FORMATS
from mp13.library.data.problem import MOST_PROBLEMS, DataError, Problem
from mp13.library.data.reading import DataSet
from mp13.library.data.tokens import staged
from mp13.library.data.writing import write_messages
from mp13.library.starter import install_starter

PROGRAM = "mp13 data"
app = typer.Typer(no_args_is_help=True, help="Training data: is it good, what does a model learn of it.")
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Format = Annotated[
    str | None, typer.Option(help=f"{', '.join(known.name for known in FORMATS)}; else the first record tells.")
]
_Model = "The model whose tokenizer and template count: `starter`, a folder, a GGUF file, or a Hub id"


@app.command("check")
def check_(
    files: Annotated[list[str], typer.Argument(metavar="FILE…", help=SOURCES)],
    evaluation: Annotated[
        list[str] | None, typer.Option("--eval", metavar="FILE", help="Data for evaluation; repeatable.")
    ] = None,
    model: Annotated[str | None, typer.Option(help=f"{_Model}. Without it no tokens are counted.")] = None,
    max_len: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="The longest sample, in tokens; else the model's context.")
    ] = None,
    format: Format = None,
    as_json: AsJson = False,
) -> None:
    """Say what is wrong with training data before a model loads. Errors name their line and end with exit code 2."""
    with outcome(PROGRAM), Progress(PROGRAM, quiet=True) as progress:
        if max_len is not None and model is None:
            raise typer.BadParameter("--max-len counts tokens; give --model, too")
        train, held_out = _data_sets(files, format), _data_sets(evaluation or [], format)
        config = None if model is None else _config(model, progress)
        tokenizer = None if config is None else Tokenizer(config.model, max_len, config.trust_remote_code)
        report = check(train, held_out, tokenizer, progress)
        progress.clear()
        if as_json:
            print(json.dumps(check_json(report), indent=2))
        tell(PROGRAM, report)
        if not as_json:
            print(check_text(report))


@app.command()
def preview(
    file: Annotated[str, typer.Argument(metavar="FILE", help=SOURCES)],
    model: Annotated[str | None, typer.Option(help=f"{_Model}; else the settings'.")] = None,
    count: Annotated[int, typer.Option("-n", min=1, metavar="N", help="How many samples.")] = 3,
    loss: Annotated[
        Literal["assistant", "all"], typer.Option(help="What carries loss: what the assistant writes, or all.")
    ] = "assistant",
    format: Format = None,
    as_json: AsJson = False,
) -> None:
    """Show samples as the model reads them. The tokens that carry loss are in colour, without colours in ⟦ ⟧."""
    with outcome(PROGRAM), Progress(PROGRAM, quiet=True) as progress:
        config = _config(model, progress)
        try:
            samples = list(islice(data_set(file, format).samples(), count))
        except DataError as error:
            raise refused(PROGRAM, error.problems) from None
        with staged(samples) as rows:
            report = rows.render(
                config.model, progress, loss=loss, with_tokens=True, trust_remote_code=config.trust_remote_code
            )
            problems = rows.problems(report)
        progress.clear()
        if problems:
            raise refused(PROGRAM, problems)
        for note in report.notes:
            complain(f"{PROGRAM}: {note}")
        _show(samples, report, config.model, loss, as_json)


@app.command()
def convert(
    file: Annotated[str, typer.Argument(metavar="FILE", help=SOURCES)],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The .jsonl file to write.")],
    format: Format = None,
    force: Annotated[bool, typer.Option("--force", help="Replace OUT if it is there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write data as messages in JSONL. Nothing is written if anything is wrong with it."""
    with outcome(PROGRAM), Progress(PROGRAM, quiet=True) as progress:
        data = data_set(file, format)
        progress(f"converting {file}", None)
        try:
            written = write_messages(data.samples(), out, replace=force)
        except DataError as error:
            raise refused(PROGRAM, error.problems) from None
        progress.clear()
        if as_json:
            name = None if data.format is None else data.format.name
            print(json.dumps({"out": str(out), "samples": written, "format": name}, indent=2))
        else:
            print(printable(f"{written:,} {'sample' if written == 1 else 'samples'} in {out}"))


def _data_sets(sources: Sequence[str], format: str | None) -> list[DataSet]:
    return [data_set(source, format) for source in sources]


def _config(model: str | None, progress: Progress) -> EngineConfig:
    """Of the model that is named, or else the settings'; the starter is installed if it is not here yet."""
    settings = load_settings({} if model is None else {"model": model})
    if settings.model in STARTER_NAMES:
        install_starter(progress)
    return settings.engine_config()


def tell(program: str, report: CheckReport) -> None:
    """Errors, warnings and notes, a line each; ends the command if there are errors."""
    for note in report.notes:
        complain(f"{program}: {note}")
    for warning in report.warnings:
        complain(f"{warning.place}: warning: {warning.told}")
    if more := report.num_warnings - len(report.warnings):
        complain(f"{program}: {more:,} more warnings")
    if report.errors:
        raise refused(program, report.errors)


def refused(program: str, problems: Sequence[Problem]) -> SystemExit:
    """Says what is wrong, a line each as compilers do, and how the command ends."""
    for problem in problems:
        complain(str(problem))
    if len(problems) >= MOST_PROBLEMS:
        complain(f"{program}: these are the first {len(problems)} errors; there may be more")
    return SystemExit(USAGE)


def _show(samples: list[Sample], report: RenderReport, model: str, loss: str, as_json: bool) -> None:
    if as_json:
        rows = preview_json(samples, report.samples)
        fields = {"model": model, "loss": loss, "template_digest": report.template_digest, "sequences": rows}
        print(json.dumps(fields, indent=2))
        return
    from rich.console import Console

    console = Console(file=sys.stdout, highlight=False)
    plain = console.no_color or console.color_system is None
    console.print(preview_text(samples, report.samples, plain), soft_wrap=True)
