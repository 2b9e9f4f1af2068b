"""What one step computes: for each sequence, how many of its next tokens."""

from dataclasses import dataclass

from mp13.engine.scheduling.sequence import Sequence


@dataclass(frozen=True)
class ScheduledSequence:
    """The next `num_new_tokens` of `seq`, starting at `seq.num_computed_tokens`."""

    seq: Sequence
    num_new_tokens: int

    @property
    def samples(self) -> bool:
        """True when this step reaches the sequence's end, so that a new token is drawn."""
        return self.seq.num_computed_tokens + self.num_new_tokens == self.seq.num_tokens


@dataclass(frozen=True)
class Batch:
    """One packed step. Decodes (one token) stand before prefills, so that attention can take them together."""

    rows: tuple[ScheduledSequence, ...]

    @property
    def num_tokens(self) -> int:
        return sum(row.num_new_tokens for row in self.rows)

    @property
    def sampled(self) -> list[Sequence]:
        return [row.seq for row in self.rows if row.samples]
