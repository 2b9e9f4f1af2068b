"""RMSNorm and SwiGLU. With gradients they keep what goes into them and nothing else: torch's own way back through the
operations that they are made of would keep every step's result, some of them in float32."""

from typing import Any

import torch
from torch.nn import functional as F


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """x / sqrt(mean(x²) + eps) * weight (Zhang & Sennrich 2019), over the last dimension. `weight` gets no gradient."""
    if x.device.type == "cpu" and torch.is_grad_enabled() and x.requires_grad:  # elsewhere torch has it in one kernel
        y: torch.Tensor = _RMSNorm.apply(x, weight, eps)  # type: ignore[no-untyped-call]
        return y
    return F.rms_norm(x, weight.shape, weight, eps)


def swiglu(gate_up: torch.Tensor) -> torch.Tensor:
    """silu(gate) * up (Shazeer 2020): (..., 2n) -> (..., n)"""
    if torch.is_grad_enabled() and gate_up.requires_grad:
        y: torch.Tensor = _SwiGLU.apply(gate_up)  # type: ignore[no-untyped-call]
        return y
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate).mul_(up)


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        ctx.eps = eps
        return F.rms_norm(x, weight.shape, weight, eps)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        x, weight = ctx.saved_tensors
        wide, grad = x.float(), (grads[0] * weight).float()
        scale = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(ctx.eps).rsqrt_()
        along = (grad * wide).sum(-1, keepdim=True).mul_(scale.pow(3)).div_(-x.shape[-1])
        return grad.mul_(scale).addcmul_(wide, along).to(x.dtype), None, None


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate_up: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(gate_up)
        gate, up = gate_up.chunk(2, dim=-1)
        return F.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> torch.Tensor:
        (gate_up,) = ctx.saved_tensors
        gate, up = gate_up.chunk(2, dim=-1)
        result = torch.empty_like(gate_up)
        to_gate, to_up = result.chunk(2, dim=-1)
        torch.mul(F.silu(gate), grads[0], out=to_up)
        torch.ops.aten.silu_backward.grad_input(grads[0] * up, gate, grad_input=to_gate)
        return result
