"""What one step computes: for each sequence, how many of its next tokens."""

from dataclasses import dataclass

from mp13.engine.scheduling.sequence import Sequence


@dataclass(frozen=True)
class ScheduledSequence:
    """The next `num_new_tokens` of `seq`, starting at `seq.num_computed_tokens`."""

    seq: Sequence
    num_new_tokens: int
    num_judged: int = 0  # so many of the last new tokens' logits are wanted, in a step that scores

    @property
    def reaches_end(self) -> bool:
        return self.seq.num_computed_tokens + self.num_new_tokens == self.seq.num_tokens

    @property
    def samples(self) -> bool:
        """True when this step reaches the end of a sequence that generates, so that a new token is drawn."""
        return self.seq.generates and self.reaches_end


@dataclass(frozen=True)
class Batch:
    """One packed step. Decodes (one token) stand before prefills, so that attention can take them together.

    `refused` could not be given their adapters and are the caller's to remove; nobody else is the worse for it.
    """

    rows: tuple[ScheduledSequence, ...]
    refused: tuple[tuple[Sequence, Exception], ...] = ()

    @property
    def num_tokens(self) -> int:
        return sum(row.num_new_tokens for row in self.rows)

    @property
    def largest(self) -> Sequence:
        """Whose part of the step is the largest."""
        return max(self.rows, key=lambda row: (row.num_new_tokens, row.seq.num_tokens)).seq

    @property
    def sampled(self) -> list[Sequence]:
        return [row.seq for row in self.rows if row.samples]

    @property
    def prefilled(self) -> list[Sequence]:
        """Those that generate nothing and are computed to their end with this step."""
        return [row.seq for row in self.rows if not row.seq.generates and row.reaches_end]
