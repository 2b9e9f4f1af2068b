"""Draws the next token of each sequence from its logits. Randomness depends on (seed, position) alone, so an answer is
the same alone and in any batch, on any device."""

import hashlib
import math
from collections import Counter

import torch

from mp13.engine.request import TokenLogprob
from mp13.engine.scheduling.sequence import Sequence


def sample(logits: torch.Tensor, seqs: list[Sequence]) -> list[int | None]:
    """One token id for each row of `logits` (R, vocab_size); row i belongs to seqs[i]. None where none can be chosen:
    the row holds NaN or infinity, or `min_tokens` forbids every token."""
    logits = _penalize(logits, seqs)
    for row, seq in enumerate(seqs):
        if seq.num_generated_tokens < seq.params.min_tokens:
            logits[row, [t for t in seq.ending if t < logits.shape[1]]] = -math.inf
    best = logits.max(-1)
    greedy = torch.where(best.values.isfinite(), best.indices, -1).tolist()
    token_ids: list[int | None] = [None if token_id < 0 else token_id for token_id in greedy]
    random_rows = [row for row, seq in enumerate(seqs) if seq.params.temperature > 0 and token_ids[row] is not None]
    if random_rows:
        drawn = _draw(logits[random_rows].float(), [seqs[row] for row in random_rows])
        for row, token_id in zip(random_rows, drawn, strict=True):
            token_ids[row] = token_id
    return token_ids


def token_logprobs(
    log_probs: torch.Tensor, seqs: list[Sequence], token_ids: list[int | None]
) -> list[TokenLogprob | None]:
    """log_probs: (R, vocab_size) of the model's own distribution; row i belongs to seqs[i], which drew token_ids[i]."""
    found: list[TokenLogprob | None] = []
    for row, seq, token_id in zip(log_probs, seqs, token_ids, strict=True):
        if token_id is None:
            found.append(None)
            continue
        top = row.topk(min(seq.params.logprobs or 0, len(row)))
        likeliest = zip(top.indices.tolist(), top.values.tolist(), strict=True)
        found.append(TokenLogprob(token_id, float(row[token_id]), tuple(likeliest)))
    return found


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1) that depends on nothing but its two arguments."""
    digest = hashlib.sha256(f"{seed}:{position}".encode()).digest()
    return (int.from_bytes(digest[:8], "little") >> 11) / 2**53  # 53 bits: more would round up to 1


def _penalize(logits: torch.Tensor, seqs: list[Sequence]) -> torch.Tensor:
    """The logits less what the sequences' penalties take; in float32 where there are any."""
    for row, seq in enumerate(seqs):
        params, factor = seq.params, seq.params.repetition_penalty
        if factor != 1:
            logits = logits.float()
            seen = list(set(seq.token_ids))
            scores = logits[row, seen]
            logits[row, seen] = torch.where(scores < 0, scores * factor, scores / factor)
        if (params.presence_penalty or params.frequency_penalty) and seq.num_generated_tokens:
            logits = logits.float()
            counts = Counter(seq.token_ids[seq.num_prompt_tokens :])
            times = torch.tensor(list(counts.values()), device=logits.device)
            logits[row, list(counts)] -= params.presence_penalty + params.frequency_penalty * times
    return logits


def _draw(logits: torch.Tensor, seqs: list[Sequence]) -> list[int]:
    """logits: (R, vocab_size) float32. Temperature, top_k, top_p, min_p, then the cumulated distribution inverted."""
    float32 = torch.finfo(torch.float32)
    temperature = _column([min(max(seq.params.temperature, float32.tiny), float32.max) for seq in seqs], logits)
    probs = ((logits - logits.amax(-1, keepdim=True)) / temperature).softmax(-1)
    if any(seq.params.top_k for seq in seqs):
        probs = _keep_top_k(probs, [seq.params.top_k for seq in seqs])
    if any(seq.params.top_p < 1 for seq in seqs):
        probs = _keep_top_p(probs, _column([seq.params.top_p for seq in seqs], logits))
    if any(seq.params.min_p for seq in seqs):
        min_p = _column([seq.params.min_p for seq in seqs], logits)
        probs = probs.masked_fill(probs < min_p * probs.amax(-1, keepdim=True), 0)
    cumulated = probs.double().cumsum(-1)
    noise = _column([uniform(seq.seed, seq.num_tokens) for seq in seqs], cumulated)
    # The first token whose cumulated mass exceeds noise × total: never one of mass 0.
    return torch.searchsorted(cumulated, noise * cumulated[:, -1:], right=True)[:, 0].tolist()


def _keep_top_k(probs: torch.Tensor, top_k: list[int]) -> torch.Tensor:
    """Zero all but each row's k likeliest tokens (Fan et al. 2018); 0 keeps the row."""
    vocab_size = probs.shape[1]
    counts = torch.tensor([min(k, vocab_size) or vocab_size for k in top_k], device=probs.device)[:, None]
    largest = min(max(top_k), vocab_size)
    values = probs.topk(largest, -1).values
    smallest_kept = values.gather(1, counts.clamp(max=largest) - 1)
    return probs.masked_fill((probs < smallest_kept) & (counts < vocab_size), 0)


def _keep_top_p(probs: torch.Tensor, top_p: torch.Tensor) -> torch.Tensor:
    """Keep each row's fewest likeliest tokens whose mass reaches top_p (nucleus sampling, Holtzman et al. 2020)."""
    values, order = probs.sort(dim=-1, descending=True, stable=True)
    mass_before = values.cumsum(-1) - values
    reached = (mass_before >= top_p * values.sum(-1, keepdim=True)) & (top_p < 1)
    reached[:, 0] = False
    return torch.zeros_like(probs).scatter(1, order, values.masked_fill(reached, 0))


def _column(values: list[float], like: torch.Tensor) -> torch.Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device)[:, None]
