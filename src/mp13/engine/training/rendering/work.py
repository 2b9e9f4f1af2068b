"""A file of samples through a model's tokenizer and chat template, a line at a time. No weights are read."""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from mp13.engine.models.choices import read_config
from mp13.engine.models.source import open_source
from mp13.engine.models.tokenizer import eos_token_ids, read_tokenizer
from mp13.engine.models.weights import model_path
from mp13.engine.request import OnProgress
from mp13.engine.text.chat_template import template_digest
from mp13.engine.text.detokenizer import token_texts
from mp13.engine.training.rendering.render import Renderer
from mp13.engine.training.rendering.request import (
    MOST_PROBLEMS,
    Loss,
    Rendered,
    RenderedSample,
    RenderProblem,
    RenderReport,
    RenderRequest,
)
from mp13.engine.training.sample import Sample
from mp13.errors import ConfigError

_EVERY = 500  # samples between two words of progress


def render_rows(request: RenderRequest, on_progress: OnProgress) -> RenderReport:
    """Raises ModelError, UnsupportedError: the model's tokenizer cannot be read, or it has no chat template."""
    on_progress("tokenizer", None)
    with open_source(model_path(request.model, on_progress, with_weights=False)) as source:
        hf_config = read_config(source, request.trust_remote_code)
        tokenizer = read_tokenizer(source, hf_config, request.trust_remote_code)
        ends = eos_token_ids(source.folder, hf_config, tokenizer)
    max_position = getattr(hf_config.get_text_config(), "max_position_embeddings", None) or 2048
    samples = _samples(Path(request.rows), on_progress)
    return rendered(samples, tokenizer, ends, request.loss, with_tokens=request.with_tokens, max_position=max_position)


def rendered(
    samples: Iterable[Sample], tokenizer: Any, eos_token_ids: Collection[int], loss: Loss, *,
    with_tokens: bool, max_position: int,
) -> RenderReport:  # fmt: skip
    """Raises UnsupportedError: the model has no chat template."""
    renderer = Renderer(tokenizer, eos_token_ids)
    made: list[RenderedSample] = []
    problems: list[RenderProblem] = []
    for number, sample in enumerate(samples):
        try:
            sequences = renderer.render(sample, loss)
        except ConfigError as error:
            problems.append(RenderProblem(number, str(error)))
            if len(problems) == MOST_PROBLEMS:
                break
            continue
        lengths = tuple(len(sequence.ids) for sequence in sequences)
        shown = _shown(tokenizer, sequences) if with_tokens else ()
        made.append(RenderedSample(lengths, sum(s.num_learned for s in sequences), shown))
    return RenderReport(
        samples=tuple(made),
        problems=tuple(problems),
        max_position=max_position,
        template_digest=template_digest(tokenizer),
        notes=renderer.notes,
    )


def _shown(tokenizer: Any, sequences: tuple[Rendered, ...]) -> tuple[Rendered, ...]:
    return tuple(replace(s, texts=token_texts(tokenizer, s.ids, shows_special=True)) for s in sequences)


def _samples(path: Path, on_progress: OnProgress) -> Iterator[Sample]:
    size, done = path.stat().st_size, 0
    with path.open("rb") as lines:
        for number, line in enumerate(lines):
            if number % _EVERY == 0:
                on_progress("counting tokens", done / size)
            done += len(line)
            yield Sample.from_line(line.decode())
