"""Where the tokens of one packed step sit: which sequence each belongs to, and in which cache blocks its past lies."""

from dataclasses import dataclass, field

import torch


@dataclass
class AttentionMetadata:
    """B sequences, T new tokens, packed one sequence after the other; sequences with one new token come first.

    A sequence's new tokens are the last `query_lens[i]` of its `context_lens[i]` tokens.
    """

    query_lens: list[int]
    context_lens: list[int]  # cached tokens and new ones together
    slot_mapping: torch.Tensor  # (T,) int64: block * block_size + offset, where each new token's K and V go
    block_tables: torch.Tensor  # (B, max_blocks) int64, padded with a block of the same sequence
    block_size: int
    first_of_run: int | None = None  # of a lone decode whose blocks lie one after the other: the first of them
    _masks: dict[tuple[int, int | None], torch.Tensor] = field(default_factory=dict)

    @property
    def num_decodes(self) -> int:
        """How many sequences, at the front of the batch, have exactly one new token."""
        return sum(n == 1 for n in self.query_lens)

    def mask(self, row: int, window: int | None) -> torch.Tensor:
        """(query_len, context_len) bool of sequence `row`: True where a query may look. Kept for the other layers."""
        key = (row, window)
        if key not in self._masks:
            query_len, context_len = self.query_lens[row], self.context_lens[row]
            self._masks[key] = causal_mask(query_len, context_len, window, self.slot_mapping.device)
        return self._masks[key]

    def decode_mask(self, window: int | None) -> torch.Tensor:
        """(num_decodes, 1, 1, max_blocks * block_size) bool over the padded keys of the decoding sequences."""
        key = (-1, window)
        if key not in self._masks:
            device = self.slot_mapping.device
            lens = torch.tensor(self.context_lens[: self.num_decodes], device=device)[:, None, None, None]
            keys = torch.arange(self.num_decode_blocks * self.block_size, device=device)
            seen = keys < lens
            self._masks[key] = seen if window is None else seen & (keys >= lens - window)
        return self._masks[key]

    @property
    def num_decode_blocks(self) -> int:
        """Blocks of the longest decoding sequence."""
        return -(-max(self.context_lens[: self.num_decodes]) // self.block_size)


def causal_mask(query_len: int, context_len: int, window: int | None, device: torch.device) -> torch.Tensor:
    """(query_len, context_len) bool, aligned at the lower right: the last query sees all keys, or the last `window`."""
    queries = torch.arange(context_len - query_len, context_len, device=device)[:, None]
    keys = torch.arange(context_len, device=device)
    seen = keys <= queries
    return seen if window is None else seen & (keys > queries - window)
