"""What is trained on: token ids, and which of them the adapter is to learn. Plain data, no torch.

How messages become rows is not known here.
"""

import hashlib
import random
from array import array
from collections.abc import Sequence
from dataclasses import dataclass

from mp13.engine.training.config import TrainConfig
from mp13.errors import ConfigError


@dataclass(frozen=True)
class TrainingRow:
    """One sample. `mask[i]` says whether token i is to be predicted from those before it; the first never is."""

    ids: Sequence[int]
    mask: Sequence[bool]

    def __post_init__(self) -> None:
        if len(self.ids) != len(self.mask):
            raise ConfigError(
                f"a sample has {len(self.ids)} token ids and {len(self.mask)} marks; it needs one for each"
            )

    def learned(self, loss: str) -> list[int]:
        """The places of the tokens that carry loss, `loss` being the setting."""
        return [i for i in range(1, len(self.ids)) if loss == "all" or self.mask[i]]


@dataclass(frozen=True)
class SplitRows:
    """`num_silent` samples carry no loss and are left out."""

    train: tuple[TrainingRow, ...]
    eval: tuple[TrainingRow, ...]
    num_silent: int


def split_rows(
    rows: Sequence[TrainingRow], eval_rows: Sequence[TrainingRow] | None, config: TrainConfig, vocab_size: int
) -> SplitRows:
    """The samples that are trained on and those held out, drawn by the seed where none are given.

    Raises:
        ConfigError: nothing is left to train on, a sample is too long, or a token id is none of the model's.
    """
    _check(rows, config, vocab_size)
    _check(eval_rows or (), config, vocab_size)
    kept = [row for row in rows if row.learned(config.loss)]
    held_out = [row for row in eval_rows or () if row.learned(config.loss)]
    num_silent = len(rows) + len(eval_rows or ()) - len(kept) - len(held_out)
    if eval_rows is None and config.eval_split:
        count = max(1, round(len(kept) * config.eval_split))
        drawn = set(random.Random(f"eval {config.seed}").sample(range(len(kept)), min(count, len(kept))))
        held_out = [row for i, row in enumerate(kept) if i in drawn]
        kept = [row for i, row in enumerate(kept) if i not in drawn]
    if not kept:
        raise ConfigError(f"none of {len(rows)} samples has a token to learn beside those held out; give more of them")
    return SplitRows(tuple(kept), tuple(held_out), num_silent)


def data_digest(rows: Sequence[TrainingRow], eval_rows: Sequence[TrainingRow] | None) -> str:
    """SHA-256 over all token ids and marks, in order."""
    digest = hashlib.sha256()
    for part in (rows, eval_rows or ()):
        digest.update(len(part).to_bytes(8, "little"))
        for row in part:
            digest.update(len(row.ids).to_bytes(8, "little"))
            digest.update(array("q", row.ids).tobytes() + bytes(map(bool, row.mask)))
    return digest.hexdigest()


def _check(rows: Sequence[TrainingRow], config: TrainConfig, vocab_size: int) -> None:
    for number, row in enumerate(rows, start=1):
        if config.batch_rows is None and len(row.ids) > config.batch_tokens:
            raise ConfigError(
                f"sample {number} has {len(row.ids)} tokens, more than batch_tokens = {config.batch_tokens}; raise "
                "batch_tokens, or shorten the sample"
            )
        if row.ids and not 0 <= min(row.ids) <= max(row.ids) < vocab_size:
            bad = next(i for i in row.ids if not 0 <= i < vocab_size)
            raise ConfigError(f"sample {number} has token id {bad}, and the model has {vocab_size}; use its tokenizer")
