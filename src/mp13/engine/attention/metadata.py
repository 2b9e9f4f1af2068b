"""Where the tokens of one packed step sit: which sequence each belongs to, and in which cache blocks its past lies."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from typing import Any, TypeVar

import torch

T = TypeVar("T")


@dataclass
class AttentionMetadata:
    """B sequences, T new tokens, packed one sequence after the other; sequences with one new token come first.

    A sequence's new tokens are the last `query_lens[i]` of its `context_lens[i]` tokens.
    """

    query_lens: list[int]
    context_lens: list[int]  # cached tokens and new ones together
    slot_mapping: torch.Tensor  # (T,) int64: block * block_size + offset, where each new token's K and V go
    block_tables: torch.Tensor  # (B, max_blocks) int32, padded with a block of the same sequence
    block_size: int
    first_of_run: int | None = None  # of a lone decode whose blocks lie one after the other: the first of them
    _kept: dict[Hashable, Any] = field(default_factory=dict)

    @cached_property
    def cu_seqlens_q(self) -> torch.Tensor:
        """(B + 1,) int32 on the device: where each sequence's new tokens begin. As flash-attn calls it."""
        return torch.tensor([0, *accumulate(self.query_lens)], dtype=torch.int32, device=self.slot_mapping.device)

    @cached_property
    def cu_seqlens_k(self) -> torch.Tensor:
        """(B + 1,) int32 on the device: where each sequence's tokens begin, if all of them lay side by side."""
        return torch.tensor([0, *accumulate(self.context_lens)], dtype=torch.int32, device=self.slot_mapping.device)

    @cached_property
    def seqused_k(self) -> torch.Tensor:
        """(B,) int32 on the device: `context_lens`. As flash-attn calls it."""
        return torch.tensor(self.context_lens, dtype=torch.int32, device=self.slot_mapping.device)

    @property
    def num_decodes(self) -> int:
        """How many sequences, at the front of the batch, have exactly one new token."""
        return sum(n == 1 for n in self.query_lens)

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """What `make` makes, made in the first layer that asks for `key` and kept for the others."""
        if key not in self._kept:
            self._kept[key] = make()
        kept: T = self._kept[key]
        return kept

    def mask(self, row: int, window: int | None) -> torch.Tensor:
        """(query_len, context_len) bool of sequence `row`: True where a query may look."""
        lens, device = (self.query_lens[row], self.context_lens[row]), self.slot_mapping.device
        return self.once((row, window), lambda: causal_mask(*lens, window, device))

    def decode_mask(self, window: int | None) -> torch.Tensor:
        """(num_decodes, 1, 1, max_blocks * block_size) bool over the padded keys of the decoding sequences."""
        return self.once(("decode", window), lambda: self._decode_mask(window))

    def _decode_mask(self, window: int | None) -> torch.Tensor:
        lens = self.seqused_k[: self.num_decodes, None, None, None]
        keys = torch.arange(self.num_decode_blocks * self.block_size, device=lens.device)
        seen = keys < lens
        return seen if window is None else seen & (keys >= lens - window)

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
