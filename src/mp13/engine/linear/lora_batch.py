"""The adapter side of one step: how strongly each token wants each adapter column. Made once, read by every linear."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class LoraBatch:
    """Columns `start:stop` of the adapters' rank axis are in use this step.

    `weights[p]` belongs to linears of p parts: float32 (T, (stop - start) * p), or None where every weight is 1.
    """

    start: int
    stop: int
    weights: dict[int, torch.Tensor | None]


def make_lora_batch(
    token_rows: list[tuple[int, list[tuple[int, int, float]]]], part_counts: set[int], device: torch.device
) -> LoraBatch | None:
    """Weights of a step's tokens over the adapters' columns.

    Args:
        token_rows: for each sequence in batch order, its number of tokens and (first column, end column, weight)
            of each adapter it uses.
        part_counts: how many parts the model's linears have, e.g. {1, 2, 3}.

    Returns None when no token uses an adapter.
    """
    columns = [column for _, adapters in token_rows for column in adapters]
    if not columns:
        return None
    start, stop = min(c[0] for c in columns), max(c[1] for c in columns)
    if all(adapters == [(start, stop, 1.0)] for _, adapters in token_rows):
        return LoraBatch(start, stop, dict.fromkeys(part_counts))
    per_sequence = torch.zeros(len(token_rows), stop - start)
    for row, (_, adapters) in enumerate(token_rows):
        for first, end, weight in adapters:
            per_sequence[row, first - start : end - start] = weight
    num_tokens = torch.tensor([n for n, _ in token_rows])
    weights = per_sequence.repeat_interleave(num_tokens, 0).to(device)  # (T, columns)
    return LoraBatch(start, stop, {p: weights.repeat(1, p) for p in part_counts})
