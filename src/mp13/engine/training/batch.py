"""Samples as the tensors of one packed row: one after the other, each with positions from 0, no padding."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from mp13.engine.attention.documents import Documents
from mp13.engine.training.rows import TrainingRow


@dataclass(frozen=True)
class PackedRow:
    """T tokens of some texts, of which R carry loss: from the hidden state of token `loss_rows[i]`, `targets[i]` is to
    be predicted."""

    input_ids: torch.Tensor  # (T,) int64
    positions: torch.Tensor  # (T,) int64
    documents: Documents
    loss_rows: torch.Tensor  # (R,) int64
    targets: torch.Tensor  # (R,) int64

    @property
    def num_tokens(self) -> int:
        return len(self.input_ids)


def packed_row(rows: Sequence[TrainingRow], loss: str, device: torch.device) -> PackedRow:
    """`loss` is the setting. A token is only ever predicted from those of its own text."""
    ids: list[int] = []
    positions: list[int] = []
    learned: list[int] = []  # places in the packed row
    for row in rows:
        learned += [len(ids) + place for place in row.learned(loss)]
        positions += range(len(row.ids))
        ids += row.ids
    targets = torch.tensor(learned, dtype=torch.int64)
    input_ids = torch.tensor(ids, dtype=torch.int64)
    return PackedRow(
        input_ids.to(device),
        torch.tensor(positions, dtype=torch.int64).to(device),
        Documents(tuple(len(row.ids) for row in rows)),
        (targets - 1).to(device),
        input_ids[targets].to(device),
    )
