"""The base weight of a linear gives the same product in every form it may be kept in."""

import pytest
import torch
from torch.nn import functional as F

from mp13.engine.linear import base_weight as module
from mp13.engine.linear.base_weight import (
    BaseWeight,
    BlockedBfloat16Weight,
    DenseWeight,
    PackedHalfWeight,
    base_weight,
)

packs_here = torch.backends.quantized.engine in ("fbgemm", "x86")


def product(weight: torch.Tensor, bias: torch.Tensor | None, x: torch.Tensor) -> torch.Tensor:
    return F.linear(x.float(), weight.float(), None if bias is None else bias.float())


@pytest.fixture
def without_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "has_fast_bfloat16", lambda: False)


@pytest.mark.skipif(not packs_here, reason="torch has no FBGEMM here")
@pytest.mark.usefixtures("without_bfloat16")
@pytest.mark.parametrize("rows", [1, 3, 40])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_packed_weight_multiplies_in_float32(rows: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    weight, bias = torch.randn(48, 64).bfloat16(), torch.randn(48).bfloat16()
    x = torch.randn(rows, 64).to(dtype)
    packed = base_weight(weight, bias)
    assert isinstance(packed, PackedHalfWeight)
    assert packed(x).dtype == dtype
    expected = product(weight, bias, x)
    torch.testing.assert_close(packed(x), expected.to(dtype), atol=2e-5 if dtype == torch.float32 else 0.07, rtol=0)


@pytest.mark.usefixtures("without_bfloat16")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_weight_too_large_for_float16_is_kept_in_float32(dtype: torch.dtype) -> None:
    weight = torch.randn(8, 16).bfloat16()
    weight[0, 0] = 1e5
    kept = base_weight(weight, torch.ones(8).bfloat16())
    assert isinstance(kept, DenseWeight)
    x = torch.randn(3, 16).to(dtype)
    torch.testing.assert_close(kept(x), product(weight, torch.ones(8), x).to(dtype))


def test_other_dtypes_are_kept_as_they_are() -> None:
    weight = torch.randn(8, 16)
    kept = base_weight(weight)
    assert isinstance(kept, DenseWeight)
    assert kept.weight.data_ptr() == weight.data_ptr()


@pytest.mark.parametrize("rows", [1, 40])
@pytest.mark.parametrize("kind", [DenseWeight, BlockedBfloat16Weight, PackedHalfWeight])
def test_gradients_go_through_every_form_to_the_input(kind: type[BaseWeight], rows: int) -> None:
    if kind is not DenseWeight and not packs_here:
        pytest.skip("torch has no FBGEMM here")
    torch.manual_seed(0)
    weight, bias, grad = torch.randn(48, 64).bfloat16(), torch.randn(48).bfloat16(), torch.randn(rows, 48)
    kept = kind(weight.clone(), bias)
    x = torch.randn(rows, 64, requires_grad=True)
    kept(x).backward(grad)
    assert x.grad is not None and x.grad.dtype == torch.float32
    expected = grad @ weight.float()
    tolerance = 2e-5 if kind is PackedHalfWeight else 0.2  # the others multiply in bfloat16
    torch.testing.assert_close(x.grad, expected, atol=tolerance, rtol=0)
    with kept.unpacked():
        torch.testing.assert_close(kept.grad_input(grad), x.grad, atol=0, rtol=0)
    assert not any(parameter.requires_grad for parameter in kept.parameters())
