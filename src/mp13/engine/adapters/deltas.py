"""What each kind of adapter does to one linear, computed from its tensors and the base weight in float32."""

import torch

from mp13.engine.adapters.adapter_config import LoraSettings
from mp13.engine.adapters.tensor_plan import ModulePlan
from mp13.engine.linear.delta import LinearDelta


@torch.no_grad()
def linear_delta(
    a: torch.Tensor, b: torch.Tensor, magnitude: torch.Tensor | None, plan: ModulePlan, settings: LoraSettings
) -> LinearDelta:
    """The adapter's own full-strength change.

    Args:
        a: (rank, in_features), b: (out_features, rank), magnitude: (out_features,) of DoRA, or None; float32.
    """
    b = b * plan.scale
    if settings.init is None and magnitude is None:
        return LinearDelta(a, b)
    weight = plan.target.linear.part_weight(plan.target.part).to(a.device)  # (out_features, in_features)
    if settings.init is not None:
        a0, b0 = _initial(weight, plan, settings)
        a, b = _shortest(torch.cat([a, a0]), torch.cat([b, -b0], 1))
    if magnitude is None:
        return LinearDelta(a, b)
    c = magnitude / torch.linalg.vector_norm(weight + b @ a, dim=1)  # (out_features,)
    return LinearDelta(a, b * c[:, None], c - 1)


def _initial(weight: torch.Tensor, plan: ModulePlan, settings: LoraSettings) -> tuple[torch.Tensor, torch.Tensor]:
    """A and B, scale in B, that the training began with and took out of the base weight.

    PiSSA (Meng et al. 2024): the largest singular values. OLoRA (Büyükakyüz 2024): the first columns of Q.
    """
    rank = plan.rank
    if settings.init == "pissa":
        u, s, vh = torch.linalg.svd(weight, full_matrices=False)
        return vh[:rank], u[:, :rank] * s[:rank]
    q, r = torch.linalg.qr(weight)
    return r[:rank], q[:, :rank] * plan.scale


def _shortest(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The same product from factors no longer than it. B A is a small difference of two large products: rounded to 16
    bits as it stands, it would be lost in their noise."""
    qa, ra = torch.linalg.qr(a.T)
    qb, rb = torch.linalg.qr(b)
    u, s, vh = torch.linalg.svd(rb @ ra.T)
    root = s.sqrt()
    return root[:, None] * vh @ qa.T, qb @ u * root
