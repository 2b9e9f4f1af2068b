"""`mp13 adapters evaluate`: several mixes on one data set. What is computed is library/evaluation.py's."""

import asyncio
import json
from dataclasses import asdict
from typing import Annotated, Any

import typer

from mp13.chat.cli.adapters_cli import PROGRAM, AsJson
from mp13.chat.cli.adapters_engine_cli import Model
from mp13.chat.cli.adapters_engine_cli import app as app
from mp13.chat.cli.outcome import complain, outcome
from mp13.chat.cli.progress import Progress
from mp13.chat.cli.running_engine import running_engine
from mp13.chat.library.evaluation import Evaluation, Row, evaluate, read_rows
from mp13.chat.library.stored_data import SOURCES
from mp13.chat.settings.load import load_settings
from mp13.chat.settings.schema import Settings
from mp13.chat.text import one_line
from mp13.errors import ConfigError
from mp13.mix import parse_mix


@app.command("evaluate")
def evaluate_(
    mixes: Annotated[list[str], typer.Argument(metavar="MIX…", help="What to evaluate: base, NAME, A:0.7+B:-0.3.")],
    data: Annotated[
        str,
        typer.Option(metavar="FILE", help=SOURCES),
    ],
    limit: Annotated[int | None, typer.Option(min=1, metavar="N", help="Only the first N rows.")] = None,
    model: Model = None,
    as_json: AsJson = False,
) -> None:
    """Judge mixes by the answers of a data set. For each: perplexity, token accuracy, and which wins how often."""
    with outcome(PROGRAM):
        canonical = tuple(str(parse_mix(mix)) for mix in mixes)
        if twice := next((mix for mix in canonical if canonical.count(mix) > 1), None):
            raise ConfigError(f"{twice} is given twice; give each mix once")
        rows = read_rows(data, limit)
        settings = load_settings({} if model is None else {"model": model})
        with Progress(PROGRAM) as progress:
            evaluation, described = asyncio.run(_evaluated(settings, rows, canonical, progress))
        for sentence in evaluation.skipped:
            complain(f"{PROGRAM}: {one_line(sentence)}")
        if as_json:
            print(json.dumps({"data": data} | described | asdict(evaluation), indent=2))
        else:
            print(_table(evaluation))


async def _evaluated(
    settings: Settings, rows: list[Row], mixes: tuple[str, ...], progress: Progress
) -> tuple[Evaluation, dict[str, Any]]:
    """With what produced it: the model, and the digests of the adapters."""
    async with running_engine(settings, progress) as connection:
        names = list(dict.fromkeys(name for mix in mixes for name in parse_mix(mix).names))
        await connection.load(names, settings.adapter_folders, fresh=True)
        evaluation = await evaluate(connection.client, rows, mixes, progress)
        adapters = {info.name: info.digest for info in connection.adapters if info.name in names}
        return evaluation, {"model": settings.engine_config().model, "adapters": adapters}


def _table(evaluation: Evaluation) -> str:
    results = evaluation.results
    head = ["MIX", "PERPLEXITY", "ACCURACY", *(f"> {result.mix}" for result in results)]
    lines = [head] + [
        [result.mix, f"{result.perplexity:.3f}", f"{result.token_accuracy:.1%}"]
        + ["·" if place == own else f"{share:.0%}" for place, share in enumerate(result.wins)]
        for own, result in enumerate(results)
    ]
    if len(results) == 1:
        lines = [line[:3] for line in lines]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    table = "\n".join(
        "  ".join([line[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(line[1:], widths[1:], strict=True))])
        for line in lines
    )
    wins = "; > MIX: the share of rows whose answers are likelier than under MIX" if len(results) > 1 else ""
    return f"{table}\n{evaluation.rows:,} rows, {evaluation.tokens:,} tokens{wins}"
