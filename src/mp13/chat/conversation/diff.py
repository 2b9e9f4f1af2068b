"""What an answer owes to the mix that wrote it: each token as that mix and another one judge it."""

from dataclasses import asdict, dataclass
from typing import Any

from mp13.service.schema import ScoreReport


@dataclass(frozen=True)
class DiffToken:
    """A token of the answer. Log-probabilities are natural; `kl` is KL(mix ‖ other) where it stands, in nats."""

    text: str
    token_id: int
    logprob: float  # under the mix that wrote it
    other_logprob: float
    best: str  # what the mix finds likeliest there
    other_best: str  # what the other would have chosen
    is_turned: bool  # the two would have chosen differently
    kl: float

    @property
    def gain(self) -> float:
        """How much likelier the mix made it, in nats."""
        return self.logprob - self.other_logprob


@dataclass(frozen=True)
class Diff:
    """An answer of `mix` beside what `other` makes of it. `note` is what the reader must know of the comparison."""

    mix: str
    other: str
    tokens: tuple[DiffToken, ...]
    note: str = ""

    @property
    def mean_kl(self) -> float:
        return sum(token.kl for token in self.tokens) / len(self.tokens)

    @property
    def turned_share(self) -> float:
        return sum(token.is_turned for token in self.tokens) / len(self.tokens)

    def as_json(self) -> dict[str, Any]:
        """All of it, for a machine."""
        return {
            "mix": self.mix,
            "other": self.other,
            "note": self.note,
            "mean_kl": self.mean_kl,
            "turned_share": self.turned_share,
            "tokens": [asdict(token) for token in self.tokens],
        }


def diff_of(report: ScoreReport, mix: str, other: str, note: str = "") -> Diff:
    """From a score of the answer under `mix` and `other`, in this order."""
    rows = zip(report.texts, *report.scores, *report.best_texts, strict=True)
    tokens = tuple(
        DiffToken(
            text=text, token_id=own.token_id, logprob=own.logprob, other_logprob=theirs.logprob, best=own_best,
            other_best=their_best, is_turned=own.best_id != theirs.best_id, kl=theirs.kl,
        )
        for text, own, theirs, own_best, their_best in rows
    )  # fmt: skip
    return Diff(mix, other, tokens, note)
