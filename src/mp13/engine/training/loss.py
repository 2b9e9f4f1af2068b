"""Cross entropy over a large vocabulary, a few tokens at a time: the logits of a whole row are never in memory.

For each chunk of tokens the loss and the gradient of the hidden states are found together, so that nothing is computed
twice and what is kept is one gradient of the hidden states' own size.
"""

from collections.abc import Callable
from typing import Any

import torch

# Bytes of float32 logits at once. On a CPU larger buffers cost more, being new memory each time, than larger products
# gain.
_CPU_BYTES, _GPU_BYTES = 16 << 20, 256 << 20
_FEWEST_ROWS = 64


def chunk_rows(vocab_size: int, device: torch.device, *, is_shared: bool = False) -> int:
    """How many tokens' logits are in memory at once. On a CPU where others wait for it a chunk is half as long; it
    takes a tenth more time in all."""
    if device.type != "cpu":
        return max(_FEWEST_ROWS, _GPU_BYTES // (4 * vocab_size))
    rows = max(_FEWEST_ROWS, _CPU_BYTES // (4 * vocab_size))
    return rows // 2 if is_shared else rows


def sum_of_losses(
    hidden: torch.Tensor,
    targets: torch.Tensor,
    logits_of: Callable[[torch.Tensor], torch.Tensor],
    rows_at_once: int,
    *,
    weight: float | None,
    between: Callable[[], None],
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The sum of the cross entropies, float32, and the gradient of `weight` times it with regard to `hidden`; the
    gradients of what else `logits_of` uses are added to it. Without a weight there are none.

    Args:
        hidden: (R, hidden_size); targets: (R,) int64.
        between: called after each chunk.
    """
    total = torch.zeros((), dtype=torch.float32, device=hidden.device)
    grad = None if weight is None else torch.empty_like(hidden)
    for start in range(0, len(hidden), rows_at_once):
        some = slice(start, start + rows_at_once)
        part = hidden[some].detach()
        with torch.set_grad_enabled(weight is not None):
            part.requires_grad_(weight is not None)
            loss: torch.Tensor = _CrossEntropy.apply(logits_of(part), targets[some])  # type: ignore[no-untyped-call]
            if grad is not None and weight is not None:
                torch.autograd.backward(loss * weight)
                assert part.grad is not None
                grad[some] = part.grad
        total += loss.detach()
        between()
    return total, grad


class _CrossEntropy(torch.autograd.Function):
    """-Σ log softmax(logits)[target] in float32. The probabilities, made once, become the gradient."""

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """logits: (R, vocab_size), targets: (R,)"""
        wide = logits.float()
        shares = wide.softmax(-1)
        normalizer = wide.amax(-1) - shares.amax(-1).log()  # log Σ exp(logits): of the likeliest token both are known
        losses = normalizer - wide.gather(1, targets[:, None])[:, 0]
        ctx.shares, ctx.targets, ctx.dtype = shares, targets, logits.dtype
        return losses.sum()

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        (grad,) = grads
        shares: torch.Tensor = ctx.shares
        shares.scatter_add_(1, ctx.targets[:, None], shares.new_full((len(shares), 1), -1.0))
        return shares.mul_(grad).to(ctx.dtype), None
