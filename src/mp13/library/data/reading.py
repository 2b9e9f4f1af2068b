"""From a source to its samples: a file by its suffix, a data set of the Hub, or records of somebody else's.

Samples come one by one, as the source is read; what is wrong with one comes in its place.
"""

from collections.abc import Callable, Iterator
from itertools import islice

from mp13.engine.training.sample import Sample
from mp13.library.data.csv_file import csv_records
from mp13.library.data.fields import Fields
from mp13.library.data.formats import Format, format_named, format_of
from mp13.library.data.json_file import Record, json_records
from mp13.library.data.problem import MOST_PROBLEMS, BadRecord, DataError, Problem
from mp13.library.data.tables import hub_data_set, hub_records, parquet_records
from mp13.library.data.text_file import check_file
from mp13.library.hub import is_path
from mp13.library.paths import given_path

_JSON, _CSV, _PARQUET = (".jsonl", ".ndjson", ".json"), ".csv", ".parquet"


class DataSet:
    """The samples of `source`, a file or a data set of the Hub, or those that `samples` gives, as such or as records.

    Iterating reads it anew. Then `format` is what its records turned out to be and `passed_over` which of their keys
    were not read.

    Raises:
        ConfigError: `format` is no name of one.
        DataError, UnsupportedError: (while iterating) the source as a whole cannot be read.
    """

    def __init__(
        self,
        source: str,
        format: str | None = None,
        samples: Callable[[], Iterator[Sample | Record | Problem]] | None = None,
    ) -> None:
        self.source = source
        self.format: Format | None = None
        self.passed_over: dict[str, None] = {}
        self._others: set[str] = set()  # formats that were met beside it, and told
        self._forced = None if format is None else format_named(format)
        self._samples = samples

    def __iter__(self) -> Iterator[Sample | Problem]:
        self.format, self.passed_over, self._others = self._forced, {}, set()
        is_empty = True
        for record in _records(self.source) if self._samples is None else self._samples():
            is_empty = False
            sample = self._sample(*record) if isinstance(record, tuple) else record
            if sample is not None:
                yield sample
        if is_empty:
            raise DataError([Problem(self.source, None, "has no samples", "give at least one")])

    def samples(self) -> Iterator[Sample]:
        """Raises DataError at the first thing that is wrong, with what else is."""
        records = iter(self)
        for sample in records:
            if isinstance(sample, Problem):
                more = (problem for problem in records if isinstance(problem, Problem))
                raise DataError([sample, *islice(more, MOST_PROBLEMS - 1)])
            yield sample

    def _sample(self, line: int, record: dict[str, object]) -> Sample | Problem | None:
        """None for a record of another format that has been told."""
        try:
            if (format := self._format_of(record)) is None:
                return None
            fields = Fields(record, format.keys)
            self.passed_over |= dict.fromkeys(fields.passed_over())
            content = format.read(fields)
        except BadRecord as error:
            return Problem(self.source, line, error.what, error.fix)
        return Sample(self.source, line, content.messages, content.prompt, content.text)

    def _format_of(self, record: dict[str, object]) -> Format | None:
        """The format of the first record is that of all; another one is told once."""
        if self.format is None:
            self.format = format_of(record)
        if self._forced is None and not self.format.fits(record):
            try:
                other = format_of(record)
            except BadRecord:  # reading it says what is missing
                return self.format
            if other.name in self._others:
                return None
            self._others.add(other.name)
            what = f"is of the format {other.name}, and what came before it of the format {self.format.name}"
            raise BadRecord(what, f"put what is {other.name} into a file of its own")
        return self.format


def _records(source: str) -> Iterator[Record | Problem]:
    path = given_path(source)
    suffix = path.suffix.lower()
    may_be_file = path.exists() or is_path(source) or suffix in (*_JSON, _CSV, _PARQUET)
    if not may_be_file and (wanted := hub_data_set(source)) is not None:
        return hub_records(wanted, source)
    check_file(path, source)
    if suffix in _JSON:
        return json_records(path, source)
    if suffix == _CSV:
        return csv_records(path, source)
    if suffix == _PARQUET:
        return parquet_records(path, source)
    what = f"is of an unknown kind ({suffix or 'no suffix'})"
    raise DataError([Problem(source, None, what, "give .jsonl, .json, .csv or .parquet")])
