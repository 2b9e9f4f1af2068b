"""Records out of Parquet files and data sets of the Hugging Face Hub, through pyarrow and datasets: the extra
`datasets`, which a plain installation lacks. Neither loads torch, and both are imported with the first use."""

import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mp13.errors import UnsupportedError
from mp13.hub_errors import hub_reason
from mp13.library.data.json_file import Record
from mp13.library.data.problem import DataError, Problem
from mp13.library.data.text_file import check_file

_PART = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_HUB = re.compile(
    rf"(?P<repo>{_PART}/{_PART})(?:/(?P<config>[\w.-]+))?(?:@(?P<revision>[\w./-]+))?(?::(?P<split>[\w.-]+))?"
)
_BATCH = 256  # rows at a time


@dataclass(frozen=True)
class HubDataSet:
    """A split of a data set; `config` is the one of that name, `revision` a branch, a tag or a commit."""

    repo: str
    config: str | None
    revision: str | None
    split: str


def hub_data_set(text: str) -> HubDataSet | None:
    """What `org/name[/config][@revision][:split]` means; None where `text` is not of that form."""
    match = _HUB.fullmatch(text)
    return match and HubDataSet(match["repo"], match["config"], match["revision"], match["split"] or "train")


def parquet_records(path: Path, source: str) -> Iterator[Record | Problem]:
    """Every row with its number. Raises UnsupportedError without pyarrow."""
    check_file(path, source)
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise _missing(source, "Parquet files", "pyarrow", error) from None
    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_BATCH):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        what = f"cannot be read as Parquet ({str(error).splitlines()[0][:120]})"
        yield Problem(source, number + 1 if number else None, what, "fetch or write the file again")


def hub_records(wanted: HubDataSet, source: str) -> Iterator[Record | Problem]:
    """Every row with its number, as it comes from the Hub or its cache; no code of the data set's is run.

    Raises UnsupportedError without datasets, DataError where the Hub does not give it.
    """
    try:
        import datasets
    except ImportError as error:
        raise _missing(source, "data sets of the Hub", "datasets", error) from None
    datasets.disable_progress_bars()
    for library in ("datasets", "huggingface_hub"):  # which tell of every try
        logging.getLogger(library).setLevel(logging.CRITICAL)
    number = 0
    try:
        rows = datasets.load_dataset(
            wanted.repo, wanted.config, split=wanted.split, revision=wanted.revision, streaming=True
        )
        for row in rows:
            number += 1
            yield number, dict(row)
    except Exception as error:  # the libraries under it raise many types
        raise DataError([Problem(source, number + 1 if number else None, *_hub_problem(error))]) from None


def _hub_problem(error: Exception) -> tuple[str, str]:
    """What is wrong and what to do. datasets says in a ValueError which splits and configurations there are."""
    told = " ".join(str(error).split())
    if isinstance(error, ValueError) and "split" in told.lower():
        return f"has no such split ({told[:200]})", "give org/name:SPLIT"
    if isinstance(error, ValueError) and "config" in told.lower():
        return f"needs the name of one of its configurations ({told[:200]})", "give org/name/CONFIG"
    if "Cast" in type(error).__name__:
        return "has rows whose columns are not those that it says it has", "fetch its files and give these"
    what, _, fix = hub_reason(error).replace("give a folder", "give a file").rpartition("; ")
    return f"is not to be had from the Hub ({what or fix})", fix if what else "check the id"


def _missing(source: str, what: str, package: str, error: ImportError) -> UnsupportedError:
    return UnsupportedError(
        f'{source}: {what} need {package}, which cannot be imported here ({error}); pip install "mp13[datasets]"'
    )
