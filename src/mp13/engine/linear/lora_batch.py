"""The adapter side of one step: how strongly each token wants each adapter in use. Made once, read by every linear."""

from functools import cached_property

import torch

SlotWeights = list[tuple[int, float]]  # (slot, weight) of the adapters that a token uses
Layout = tuple[tuple[int, int], ...]  # (index into `slots`, how many columns in a row)
BagShape = tuple[int, int]  # rows of an adapter, rows of a bag
Bags = tuple[torch.Tensor, torch.Tensor]  # int64, rows and offsets

# Measured on two cores with ranks of 16: a pair's rows cost what a token's products with four adapters do, and products
# cost as much as 64 pairs before they begin.
_FEW = 64
_SPARSE = 4


class Pairs:
    """Each token with each adapter that it uses, in the order of the tokens.

    `tokens`: (count,), or None where every token has one pair. `weights`: (count, 1), or None where all are 1.
    """

    def __init__(self, weights: torch.Tensor) -> None:
        """weights: (T, adapters)"""
        tokens, self._adapters = weights.nonzero().unbind(1)
        self.count, num_tokens = len(tokens), len(weights)
        one_each = self.count == num_tokens and torch.equal(tokens, torch.arange(num_tokens))
        self.tokens = None if one_each else tokens
        own = weights[tokens, self._adapters]
        self.weights = None if bool((own == 1.0).all()) else own[:, None]
        self._bags: dict[BagShape, Bags] = {}

    def bags(self, shape: BagShape) -> Bags:
        """For each pair, the rows of its adapter in a table that holds as many for each adapter, in bags of one size;
        and where each bag begins among them."""
        found = self._bags.get(shape)
        if found is None:
            num_rows, bag_size = shape
            rows = (self._adapters[:, None] * num_rows + torch.arange(num_rows)).flatten()  # (count * num_rows,)
            found = self._bags[shape] = rows, torch.arange(0, len(rows), bag_size)
        return found


class LoraBatch:
    """`slots` are those in use this step, in ascending order.

    `weights`: float32 (T, len(slots)); `all_one`: whether every token wants every one of them at 1.
    """

    def __init__(self, slots: tuple[int, ...], weights: torch.Tensor, all_one: bool, rows: torch.Tensor) -> None:
        self.slots = slots
        self.weights = weights
        self._all_one = all_one
        self._rows = rows
        self._columns: dict[Layout, torch.Tensor] = {}

    @cached_property
    def of_rows(self) -> "LoraBatch":
        """The same for those tokens alone whose logits are wanted."""
        return LoraBatch(self.slots, self.weights[self._rows], self._all_one, self._rows)

    @cached_property
    def pairs(self) -> Pairs | None:
        """None on a GPU, and where so many tokens use so many of the adapters that products with all of them are
        quicker than reading each pair's own rows."""
        if not self.weights.is_cpu:
            return None
        pairs = Pairs(self.weights)
        return pairs if pairs.count <= max(_FEW, self.weights.numel() // _SPARSE) else None

    def over(self, layout: Layout) -> torch.Tensor | None:
        """Weights over columns that belong to slots as `layout` says: (T, columns); None where all are 1."""
        if self._all_one:
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
    all_one = all(len(adapters) == len(slots) and all(w == 1.0 for _, w in adapters) for _, adapters in token_rows)
    place = {slot: index for index, slot in enumerate(slots)}
    per_run = torch.zeros(len(token_rows), len(slots))
    for run, (_, adapters) in enumerate(token_rows):
        for slot, weight in adapters:
            per_run[run, place[slot]] = weight
    num_tokens = torch.tensor([n for n, _ in token_rows])
    return LoraBatch(slots, per_run.repeat_interleave(num_tokens, 0).to(rows.device), all_one, rows)
