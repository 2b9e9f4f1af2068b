"""RMSNorm and SwiGLU: their gradients are those of the plain formulas, and nothing but their input is kept for them."""

from collections.abc import Callable

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F

from mp13.engine.models.pointwise import rms_norm, swiglu

EPS = 1e-5
WEIGHT = torch.linspace(0.5, 2, 24)


def plain_norm(x: torch.Tensor) -> torch.Tensor:
    return x / (x.square().mean(-1, keepdim=True) + EPS).sqrt() * WEIGHT.to(x.dtype)


def plain_swiglu(x: torch.Tensor) -> torch.Tensor:
    gate, up = x.chunk(2, -1)
    return F.silu(gate) * up


CASES: list[tuple[Callable[[torch.Tensor], torch.Tensor], Callable[[torch.Tensor], torch.Tensor]]] = [
    (lambda x: rms_norm(x, WEIGHT.to(x.dtype), EPS), plain_norm), (swiglu, plain_swiglu),
]  # fmt: skip


@pytest.mark.parametrize(("ours", "plain"), CASES, ids=["norm", "swiglu"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 0.02)])
def test_values_and_gradients_are_those_of_the_formula(
    ours: Callable[[torch.Tensor], torch.Tensor],
    plain: Callable[[torch.Tensor], torch.Tensor],
    dtype: torch.dtype,
    tolerance: float,
) -> None:
    draw = torch.Generator().manual_seed(0)
    x = (3 * torch.randn(2, 5, 24, generator=draw)).to(dtype)
    exact, given = x.double().requires_grad_(), x.clone().requires_grad_()
    expected, found = plain(exact), ours(given)
    grad = torch.randn(expected.shape, generator=draw)
    expected.backward(grad.double())
    found.backward(grad.to(dtype))
    assert given.grad is not None and exact.grad is not None and given.grad.dtype == dtype
    for one, other in ((found, expected), (given.grad, exact.grad), (ours(x), expected)):
        assert float((one.double() - other).norm() / other.norm()) < tolerance


@pytest.mark.parametrize("ours", [case[0] for case in CASES], ids=["norm", "swiglu"])
def test_nothing_is_kept_but_the_input(ours: Callable[[torch.Tensor], torch.Tensor]) -> None:
    x, kept = torch.randn(5, 24, requires_grad=True), []
    with saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        ours(x)
    assert kept and all(tensor.data_ptr() in (x.data_ptr(), WEIGHT.data_ptr()) for tensor in kept)


@pytest.mark.parametrize("ours", [case[0] for case in CASES], ids=["norm", "swiglu"])
def test_values_are_the_same_bits_without_gradients(ours: Callable[[torch.Tensor], torch.Tensor]) -> None:
    x = torch.randn(50, 24)
    assert torch.equal(ours(x), ours(x.clone().requires_grad_()))
