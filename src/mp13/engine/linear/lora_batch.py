"""The adapter side of one step: how strongly each token wants each adapter in use. Made once, read by every linear."""

from functools import cached_property

import torch

SlotWeights = list[tuple[int, float]]  # (slot, weight) of the adapters that a token uses
Layout = tuple[tuple[int, int], ...]  # (index into `slots`, how many columns in a row)


class LoraBatch:
    """`slots` are those in use this step, in ascending order.

    `weights`: float32 (T, len(slots)), or None where every token wants every one of them at 1.
    """

    def __init__(self, slots: tuple[int, ...], weights: torch.Tensor | None, rows: torch.Tensor | None = None) -> None:
        self.slots = slots
        self.weights = weights
        self._rows = rows
        self._columns: dict[Layout, torch.Tensor] = {}

    @cached_property
    def of_rows(self) -> "LoraBatch":
        """The same for those tokens alone whose logits are wanted."""
        return LoraBatch(self.slots, None if self.weights is None else self.weights[self._rows])

    def over(self, layout: Layout) -> torch.Tensor | None:
        """Weights over columns that belong to slots as `layout` says: (T, columns); None where all are 1."""
        if self.weights is None:
            return None
        if layout not in self._columns:
            slots, widths = torch.tensor(layout, device=self.weights.device).T
            self._columns[layout] = self.weights[:, slots.repeat_interleave(widths)]
        return self._columns[layout]


def make_lora_batch(token_rows: list[tuple[int, SlotWeights]], rows: torch.Tensor) -> LoraBatch | None:
    """Weights of a step's tokens over the slots; None when no token uses an adapter.

    Args:
        token_rows: runs of tokens in batch order: how many, and the adapters they use.
        rows: (R,), the tokens whose logits are wanted.
    """
    token_rows = [(n, adapters) for n, adapters in token_rows if n]
    slots = tuple(sorted({slot for _, adapters in token_rows for slot, _ in adapters}))
    if not slots:
        return None
    if all(len(adapters) == len(slots) and all(w == 1.0 for _, w in adapters) for _, adapters in token_rows):
        return LoraBatch(slots, None, rows)
    place = {slot: index for index, slot in enumerate(slots)}
    per_run = torch.zeros(len(token_rows), len(slots))
    for run, (_, adapters) in enumerate(token_rows):
        for slot, weight in adapters:
            per_run[run, place[slot]] = weight
    num_tokens = torch.tensor([n for n, _ in token_rows])
    return LoraBatch(slots, per_run.repeat_interleave(num_tokens, 0).to(rows.device), rows)
