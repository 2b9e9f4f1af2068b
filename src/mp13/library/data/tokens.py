"""Samples as a model's tokens, from the side that must not load torch: engine/training/rendering does it in a process
of its own, on a file of samples that is written for it."""

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from mp13.engine.request import OnProgress
from mp13.engine.training.rendering.request import (
    Loss,
    Rendered,
    RenderedSample,
    RenderProblem,
    RenderReport,
    RenderRequest,
)
from mp13.engine.training.sample import Sample
from mp13.library.data.problem import Problem
from mp13.library.worker import run_worker


class StagedSamples:
    """Samples in a file, in the order in which they were added. `places` are where they stood."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self.places: list[tuple[str, int]] = []

    def add(self, sample: Sample) -> None:
        self._file.write(sample.to_line() + "\n")
        self.places.append((sample.source, sample.line))

    @property
    def path(self) -> str:
        """Of the file, with all that was added."""
        self._file.flush()
        return self._file.name

    def render(
        self,
        model: str,
        on_progress: OnProgress,
        *,
        loss: Loss = "assistant",
        with_tokens: bool = False,
        trust_remote_code: bool = False,
    ) -> RenderReport:
        """Raises what the other process ends with: ModelError, UnsupportedError."""
        request = RenderRequest(model, self.path, loss, with_tokens, trust_remote_code)
        return _report(run_worker("mp13.engine.training.rendering", request, on_progress))

    def problems(self, report: RenderReport) -> list[Problem]:
        """Those of the report, with the places of their samples."""
        found = []
        for problem in report.problems:
            what, _, fix = problem.sentence.partition("; ")
            found.append(Problem(*self.places[problem.sample], what, fix or "leave the sample out"))
        return found


@contextmanager
def staged(samples: Iterable[Sample] = ()) -> Iterator[StagedSamples]:
    """A file that its owner alone can read, gone afterwards."""
    with (
        tempfile.TemporaryDirectory(prefix="mp13-") as folder,
        (Path(folder) / "samples.jsonl").open("w", encoding="utf-8", newline="\n") as file,
    ):
        made = StagedSamples(file)
        for sample in samples:
            made.add(sample)
        yield made


def _report(fields: dict[str, Any]) -> RenderReport:
    return RenderReport(
        samples=tuple(_sample(**sample) for sample in fields["samples"]),
        problems=tuple(RenderProblem(**problem) for problem in fields["problems"]),
        max_position=fields["max_position"],
        template_digest=fields["template_digest"],
        notes=tuple(fields["notes"]),
    )


def _sample(lengths: list[int], num_learned: int, sequences: list[dict[str, Any]]) -> RenderedSample:
    made = tuple(Rendered(tuple(s["ids"]), tuple(s["mask"]), tuple(s["texts"])) for s in sequences)
    return RenderedSample(tuple(lengths), num_learned, made)
