"""Several adapters of one linear layer as tables of rows, for steps on a CPU whose tokens use few of them.

Each token reads the rows of its own adapters and nothing else, whatever the others in the batch use. `embedding_bag`
adds up rows with a factor each, on all cores, without laying anything out anew: for h = A x the rows are A's columns
and the factors x, for B h they are B's columns and the factors h.
"""

import math
from collections.abc import Mapping, Sequence

import torch

from mp13.engine.linear.delta import LinearDelta
from mp13.engine.linear.lora_batch import Bags, Pairs


class LoraTables:
    """`adapters` are in the order of the batch's slots; each maps a part of the linear to what it adds there.

    All have room for the largest rank. Parts are cut into segments of one width, so that one table holds all of B.
    """

    def __init__(self, adapters: Sequence[Mapping[int, LinearDelta]], part_sizes: Sequence[int]) -> None:
        some = next(delta for deltas in adapters for delta in deltas.values())
        in_features, num_parts, width = some.a.shape[1], len(part_sizes), math.gcd(*part_sizes)
        rank = max(delta.a.shape[0] for deltas in adapters for delta in deltas.values())
        part_of_segment = [part for part, size in enumerate(part_sizes) for _ in range(size // width)]
        num_segments = len(part_of_segment)
        a = some.a.new_empty(len(adapters), in_features, num_parts * rank)
        b = some.b.new_zeros(len(adapters), num_segments, rank, width)
        for i, deltas in enumerate(adapters):
            rows = some.a.new_zeros(num_parts, rank, in_features)
            for part, delta in deltas.items():
                rows[part, : delta.a.shape[0]] = delta.a
            a[i] = rows.flatten(0, 1).T
            for segment, part in enumerate(part_of_segment):
                if part in deltas:
                    start = (segment - part_of_segment.index(part)) * width
                    segment_b = deltas[part].b[start : start + width]  # (width, its rank)
                    b[i, segment, : segment_b.shape[1]] = segment_b.T
        self._a = a.flatten(0, 1)  # (adapters * in_features, parts * rank)
        self._b = b.flatten(0, 2)  # (adapters * segments * rank, width)
        self._a_bags, self._b_bags = (in_features, in_features), (num_segments * rank, rank)
        self._h_shape = (-1, num_parts, rank)
        self._part_of_segment = None if num_segments == num_parts else torch.tensor(part_of_segment)

    def add_to(self, y: torch.Tensor, x: torch.Tensor, pairs: Pairs) -> None:
        """y += Σ weight * B A x, in place. y: (T, out_features), x: (T, in_features)"""
        if x.dtype != self._a.dtype:
            x = x.to(self._a.dtype)
        if pairs.tokens is not None:
            x = x.index_select(0, pairs.tokens)
        h = _sums(self._a, pairs.bags(self._a_bags), x)  # (pairs, parts * rank)
        if pairs.weights is not None:
            h.mul_(pairs.weights)  # in place: float32 weights on a bfloat16 h round only once
        if self._part_of_segment is not None:
            h = h.view(self._h_shape).index_select(1, self._part_of_segment)
        change = _sums(self._b, pairs.bags(self._b_bags), h).view(-1, y.shape[1])  # (pairs, out_features)
        if pairs.tokens is not None:  # summed up first, so that y is rounded once
            change = change.new_zeros(y.shape).index_add_(0, pairs.tokens, change)
        y.add_(change)


def _sums(table: torch.Tensor, bags: Bags, factors: torch.Tensor) -> torch.Tensor:
    """For each bag of rows their sum, each times its factor: (bags, width)"""
    index, offsets = bags
    sums: torch.Tensor = torch.embedding_bag(table, index, offsets, False, 0, False, factors.view(-1), False)[0]
    return sums
