"""What one adapter does to one linear layer, in the form in which it is added."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class LinearDelta:
    """δ(x) = gain · (W x) + B A x, W without its bias.

    LoRA (Hu et al. 2021) has no gain; B carries its scale. DoRA (Liu et al. 2024) turns W + s B A so that its rows
    have lengths m: with c = m / ‖W + s B A‖ by row, gain is c - 1 and B is c s B.
    """

    a: torch.Tensor  # (rank, in_features)
    b: torch.Tensor  # (out_features, rank)
    gain: torch.Tensor | None = None  # (out_features,)

    def to(self, dtype: torch.dtype, device: torch.device) -> "LinearDelta":
        """The same there; shares what is there already."""
        gain = None if self.gain is None else self.gain.to(device, dtype)
        return LinearDelta(self.a.to(device, dtype), self.b.to(device, dtype), gain)
