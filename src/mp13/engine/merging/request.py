"""What a merge is asked and what it answers. Plain data, no torch: the library hands it to a process of its own."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mp13.errors import ConfigError, MixError
from mp13.mix import Mix, check_name, parse_mix

Target = Literal["adapter", "model"]
EXACT_METHOD = "cat"
# PEFT's combination types; those in _svd work on whole deltas, so that ranks may differ.
METHODS = (
    EXACT_METHOD, "linear", "svd", "ties", "dare_linear", "dare_ties", "magnitude_prune",
    "ties_svd", "dare_linear_svd", "dare_ties_svd", "magnitude_prune_svd",
)  # fmt: skip
DEFAULT_DENSITY = 0.5


@dataclass(frozen=True)
class MergeRequest:
    """Turn `mix` into one adapter, or base and mix into one model.

    Args:
        model: the base, a folder or a Hub id.
        adapters: (name, folder) of every member of the mix.
        out: the folder to be made. For an adapter its last part is the adapter's name.
        method: "cat" is the mix itself, exactly; the others are approximations of it, or other sums altogether.
        rank: of the result of an svd method; the largest among the members when left out.
        density: share of the values that ties, dare and magnitude_prune keep; DEFAULT_DENSITY when left out.
        seed: of dare's random choice.

    Raises:
        ConfigError, MixError: these do not describe a merge.
    """

    model: str
    mix: str
    adapters: tuple[tuple[str, str], ...]
    out: str
    target: Target
    method: str = EXACT_METHOD
    rank: int | None = None
    density: float | None = None
    seed: int = 0
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "adapters", tuple((name, folder) for name, folder in self.adapters))
        if self.target == "adapter":
            check_name(Path(self.out).name)
        if self.method not in METHODS:
            raise ConfigError(f"method = {self.method!r} is not known; choose one of {', '.join(METHODS)}")
        if self.rank is not None and not (self.method.endswith("svd") and self.rank >= 1):
            raise ConfigError(f"rank = {self.rank} cannot be used with method {self.method!r}; an svd method takes one")
        if self.density is not None and not (self.prunes and 0 < self.density <= 1):
            raise ConfigError(
                f"density = {self.density} cannot be used with method {self.method!r}; give ties, dare and "
                "magnitude_prune one above 0, at most 1"
            )
        if not any(weight for _, weight in self.parsed.members):
            raise MixError(f"{self.mix!r} is the base itself; name at least one adapter with a weight other than 0")
        if missing := set(self.parsed.names) - {name for name, _ in self.adapters}:
            raise MixError(f"{self.mix!r} names {sorted(missing)[0]!r}, for which no folder is given")

    @property
    def parsed(self) -> Mix:
        return parse_mix(self.mix)

    @property
    def prunes(self) -> bool:
        return self.method.startswith(("ties", "dare", "magnitude"))


@dataclass(frozen=True)
class MergeReport:
    """What was made, and how far it is from the live mix on a few probe texts.

    `max_gap` is the largest difference of any token's log-probability, `mean_kl` KL(live ‖ merged), both in nats.
    """

    path: str
    target: Target
    mix: str  # canonical
    members: tuple[tuple[str, str, float], ...]  # name, content digest, weight
    method: str
    rank: int | None  # of the adapter that was made
    size_bytes: int
    max_gap: float
    mean_kl: float
    warnings: tuple[str, ...] = ()
