"""Everything that can be known of training data before a model is loaded: can it be read and learned, is it there
twice, does the evaluation test what was learned, and with a tokenizer, how long is it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

from mp13.engine.request import OnProgress
from mp13.engine.training.rendering.request import RenderReport
from mp13.engine.training.sample import Sample
from mp13.errors import ConfigError
from mp13.library.data.duplicates import Duplicates
from mp13.library.data.histogram import Histogram, histogram
from mp13.library.data.problem import MOST_PROBLEMS, DataError, Problem
from mp13.library.data.reading import DataSet
from mp13.library.data.tokens import StagedSamples, staged


@dataclass(frozen=True)
class Tokenizer:
    """Whose tokens are counted. `max_len` None is the model's context."""

    model: str
    max_len: int | None = None
    trust_remote_code: bool = False


@dataclass(frozen=True)
class SourceCount:
    """What one source holds."""

    source: str
    format: str | None  # None where nobody had to find it out
    samples: int
    answers: int  # that are learned, texts included


@dataclass(frozen=True)
class TokenCount:
    """Of the training data as the model is to read it. A sample may be several sequences."""

    model: str
    max_len: int
    sequences: Histogram
    learned: int  # tokens that carry loss
    template_digest: str


@dataclass(frozen=True)
class CheckReport:
    """With errors the data cannot be used, and the rest says only what was seen until then. Of the warnings the first
    are kept and all counted."""

    errors: tuple[Problem, ...]
    warnings: tuple[Problem, ...]
    num_warnings: int
    train: tuple[SourceCount, ...]
    evaluation: tuple[SourceCount, ...]
    exact_duplicates: int
    near_duplicates: int
    leaked: int
    tokens: TokenCount | None
    notes: tuple[str, ...] = ()

    def raise_errors(self) -> None:
        """Raises DataError if there are any."""
        if self.errors:
            raise DataError(self.errors)


def check(
    train: Sequence[DataSet],
    evaluation: Sequence[DataSet] = (),
    tokenizer: Tokenizer | None = None,
    on_progress: OnProgress = lambda stage, fraction: None,
) -> CheckReport:
    """Read all of it, and count its tokens if it is good. Blocks.

    Raises:
        ModelError, UnsupportedError: the tokenizer cannot be had, or what a source needs is not installed.
    """
    found = _Findings()
    with staged() as samples:
        for data, is_learned in [*((d, True) for d in train), *((d, False) for d in evaluation)]:
            on_progress(f"reading {data.source}", None)
            for sample in found.read(data, is_learned):
                if tokenizer is not None:
                    samples.add(sample)
        if tokenizer is None or found.errors:
            return found.report(None)
        return found.report(found.count(samples, tokenizer, on_progress))


@dataclass
class _Findings:
    errors: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)
    num_warnings: int = 0
    leaked: int = 0
    train: list[SourceCount] = field(default_factory=list)
    evaluation: list[SourceCount] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    duplicates: Duplicates = field(default_factory=Duplicates)

    def read(self, data: DataSet, is_learned: bool) -> Iterator[Sample]:
        """The good samples, as they are looked at."""
        samples = answers = 0
        try:
            for sample in data if len(self.errors) < MOST_PROBLEMS else ():
                if isinstance(sample, Problem):
                    self.errors.append(sample)
                else:
                    samples += 1
                    answers += sum(m.role == "assistant" and m.is_learned for m in sample.messages) or 1
                    self._compare(sample, is_learned)
                    yield sample
                if len(self.errors) >= MOST_PROBLEMS:
                    break
        except DataError as error:
            self.errors += error.problems
        if data.passed_over:
            names = ", ".join(map(repr, data.passed_over))
            self._warn(Problem(data.source, None, f"the keys {names:.300} are not read", "nothing needs to be done"))
        count = SourceCount(data.source, None if data.format is None else data.format.name, samples, answers)
        (self.train if is_learned else self.evaluation).append(count)

    def _compare(self, sample: Sample, is_learned: bool) -> None:
        if is_learned:
            if (problem := self.duplicates.add(sample)) is not None:
                self._warn(problem)
        elif (problem := self.duplicates.leaked(sample)) is not None:
            self.leaked += 1
            self.errors.append(problem)

    def _warn(self, problem: Problem) -> None:
        self.num_warnings += 1
        if len(self.warnings) < MOST_PROBLEMS:
            self.warnings.append(problem)

    def count(self, samples: StagedSamples, tokenizer: Tokenizer, on_progress: OnProgress) -> TokenCount | None:
        rendered = samples.render(tokenizer.model, on_progress, trust_remote_code=tokenizer.trust_remote_code)
        self.notes += rendered.notes
        max_len = rendered.max_position if tokenizer.max_len is None else tokenizer.max_len
        if max_len > rendered.max_position:
            raise ConfigError(f"max_len = {max_len:,} is over the model's context of {rendered.max_position:,} tokens")
        self.errors += samples.problems(rendered) or _too_long(samples, rendered, max_len)
        if self.errors:
            return None
        train = rendered.samples[: sum(count.samples for count in self.train)]
        return TokenCount(
            model=tokenizer.model,
            max_len=max_len,
            sequences=histogram([length for sample in train for length in sample.lengths]),
            learned=sum(sample.num_learned for sample in train),
            template_digest=rendered.template_digest,
        )

    def report(self, tokens: TokenCount | None) -> CheckReport:
        return CheckReport(
            errors=tuple(self.errors[:MOST_PROBLEMS]),
            warnings=tuple(self.warnings),
            num_warnings=self.num_warnings,
            train=tuple(self.train),
            evaluation=tuple(self.evaluation),
            exact_duplicates=self.duplicates.exact,
            near_duplicates=self.duplicates.near,
            leaked=self.leaked,
            tokens=tokens,
            notes=tuple(self.notes),
        )


def _too_long(samples: StagedSamples, rendered: RenderReport, max_len: int) -> list[Problem]:
    fix = "shorten or split it, or raise the limit" if max_len < rendered.max_position else "shorten or split it"
    lengths = zip(samples.places, (max(sample.lengths) for sample in rendered.samples), strict=True)
    found = (
        Problem(*place, f"has {length:,} tokens, and {max_len:,} are allowed", fix)
        for place, length in lengths
        if length > max_len
    )
    return list(islice(found, MOST_PROBLEMS))
