"""Turns a scheduled batch into the tensors of one packed step."""

from dataclasses import dataclass

import torch

from mp13.engine.attention.metadata import AttentionMetadata
from mp13.engine.scheduling.batch import Batch, ScheduledSequence


@dataclass(frozen=True)
class BatchTensors:
    input_ids: torch.Tensor  # (T,)
    positions: torch.Tensor  # (T,)
    rows: torch.Tensor  # (R,): the tokens whose logits are wanted: the last of a sequence that samples, or those judged
    new_blocks: list[int]  # those whose first slot this step fills
    attention: AttentionMetadata


def batch_tensors(batch: Batch, block_size: int, device: torch.device) -> BatchTensors:
    input_ids: list[int] = []
    positions: list[int] = []
    slots: list[int] = []
    rows: list[int] = []
    new_blocks: list[int] = []
    for row in batch.rows:
        start, stop = row.seq.num_computed_tokens, row.seq.num_computed_tokens + row.num_new_tokens
        input_ids += row.seq.token_ids[start:stop]
        positions += range(start, stop)
        slots += _slots(row, block_size)
        new_blocks += row.seq.block_table[-(-start // block_size) : -(-stop // block_size)]
        rows += range(len(input_ids) - (row.num_judged or int(row.samples)), len(input_ids))
    ints = torch.tensor([input_ids, positions, slots], device=device)  # one transfer for the three
    widest = max(len(row.seq.block_table) for row in batch.rows)
    tables = [table + table[:1] * (widest - len(table)) for table in (row.seq.block_table for row in batch.rows)]
    attention = AttentionMetadata(
        query_lens=[row.num_new_tokens for row in batch.rows],
        context_lens=[row.seq.num_computed_tokens + row.num_new_tokens for row in batch.rows],
        slot_mapping=ints[2],
        block_tables=torch.tensor(tables, dtype=torch.int32, device=device),
        block_size=block_size,
        first_of_run=_first_of_run(batch),
    )
    row_tensor = torch.tensor(rows, dtype=torch.int64, device=device)
    return BatchTensors(ints[0], ints[1], row_tensor, new_blocks, attention)


def _slots(row: ScheduledSequence, block_size: int) -> list[int]:
    """Cache slot of each new token: block * block_size + offset."""
    table, start = row.seq.block_table, row.seq.num_computed_tokens
    return [table[p // block_size] * block_size + p % block_size for p in range(start, start + row.num_new_tokens)]


def _first_of_run(batch: Batch) -> int | None:
    if len(batch.rows) != 1 or batch.rows[0].num_new_tokens != 1:
        return None
    table = batch.rows[0].seq.block_table
    return table[0] if table == list(range(table[0], table[0] + len(table))) else None
