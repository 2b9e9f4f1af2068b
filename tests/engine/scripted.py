"""A tiny engine whose model says what a test tells it to; everything else, the sampler included, is the real thing."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest
import torch

from mp13.engine.execution import model_runner, sampler
from mp13.engine.scheduling.sequence import Sequence as EngineSequence


@contextmanager
def script(*answers: Sequence[int], otherwise: int) -> Iterator[None]:
    """While it lasts, a request whose prompt ends in token i says answers[i], then `otherwise` for ever. Said means:
    the likeliest by far; `otherwise` comes second, where a token is forbidden."""

    def scripted(logits: torch.Tensor, seqs: list[EngineSequence]) -> list[int | None]:
        logits.fill_(-50)
        logits[:, otherwise] = 0
        for row, seq in enumerate(seqs):
            answer = answers[seq.token_ids[seq.num_prompt_tokens - 1]]
            if seq.num_generated_tokens < len(answer):
                logits[row, answer[seq.num_generated_tokens]] = 50
        return sampler.sample(logits, seqs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model_runner, "sample", scripted)
        yield
