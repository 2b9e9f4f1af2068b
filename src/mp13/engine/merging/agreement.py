"""Do merged and live weights say the same? Asked of a few short texts, at every token, over the whole vocabulary."""

from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass
from typing import Any

import torch

from mp13.engine.adapters.manager import merge_members
from mp13.engine.core import EngineCore
from mp13.engine.models.bridged_loading import first_line
from mp13.engine.request import SamplingParams
from mp13.engine.scheduling.batch import Batch, ScheduledSequence
from mp13.engine.scheduling.sequence import Sequence
from mp13.errors import AdapterError, ModelError

_TEXTS = (
    "The capital of France is Paris, and the river that flows through it is called the Seine.",
    "Question: What is 17 + 25? Answer: 42. Question: Who wrote Hamlet? Answer:",
    'def greet(name: str) -> str:\n    return f"Hello, {name}!"\n',
    '{"city": "Oslo", "country": "Norway", "population": 709037}',
)
# The mean KL, in nats, that rounding explains: of float32 sums in another order, of weights kept at 16 bits, or of all
# that is computed.
FLOAT32, HALF_WEIGHTS, HALF_ARITHMETIC = 1e-5, 1e-2, 0.3


@dataclass(frozen=True)
class Agreement:
    max_gap: float  # largest |Δ log-probability| of any token
    mean_kl: float  # KL(live ‖ merged)

    def require(self, what: str, tolerance: float) -> None:
        """Raises AdapterError when the two are further apart than that."""
        if not self.mean_kl <= tolerance:
            raise AdapterError(
                f"{what} does not say what it should (mean KL {self.mean_kl:.2g}, over {tolerance:g}) and is not kept; "
                "try smaller weights, or a base in float32"
            )


def probe_ids(tokenizer: Any, vocab_size: int) -> list[list[int]]:
    """The probe texts' token ids. A tokenizer of tokens that the model does not know gives none."""
    texts = [[t for t in tokenizer(text)["input_ids"] if t < vocab_size] for text in _TEXTS]
    return [ids for ids in texts if ids]


def log_probs(core: EngineCore, texts: SequenceOf[list[int]], mix: str) -> torch.Tensor:
    """What may follow each token of the texts under `mix`: natural logs, float32 on the CPU, (tokens, vocab_size)."""
    adapters = merge_members(core.adapters.resolve(mix)[1])
    core.adapters.retain(adapters)
    core.adapters.slots.acquire(adapters)
    rows = []
    for ids in texts:
        seq = Sequence("probe", ids, SamplingParams(), adapters=adapters, generates=False)
        core.pool.allocate(seq, len(ids))
        logits = core.runner.logits(Batch((ScheduledSequence(seq, len(ids), num_judged=len(ids)),)))
        rows.append(logits.float().log_softmax(-1).cpu())
        core.pool.release(seq)
    core.adapters.slots.release(adapters)
    core.adapters.drop(adapters)
    return torch.cat(rows)


@torch.inference_mode()
def own_log_probs(model: Any, texts: SequenceOf[list[int]]) -> torch.Tensor:
    """What `log_probs` gives, from Transformers' own forward pass."""
    try:
        rows = [model(torch.tensor([ids]), use_cache=False).logits[0] for ids in texts]
    except (RuntimeError, ValueError, TypeError) as error:
        raise ModelError(f"Transformers' own model fails: {first_line(error)}") from error
    return torch.cat(rows).float().log_softmax(-1)


def compare(live: torch.Tensor, merged: torch.Tensor) -> Agreement:
    """live, merged: log-probabilities (tokens, vocab_size)"""
    gaps = (live - merged).double()
    mean_kl = float((live.double().exp() * gaps).sum(-1).mean())
    return Agreement(float(gaps.abs().max()), max(mean_kl, 0.0))  # rounding may leave it a little below
