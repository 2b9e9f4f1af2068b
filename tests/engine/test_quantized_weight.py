"""A quantized weight holds hqq's codes and multiplies as W dequantized does, by whichever way it takes."""

import pytest
import torch
from hqq.core.quantize import Quantizer
from torch.autograd.graph import saved_tensors_hooks

from mp13.engine.linear import int4_cpu, quantized_tensor
from mp13.engine.linear import quantized_weight as quantized_weight_module
from mp13.engine.linear.int4_cpu import Int4CPUWeight
from mp13.engine.linear.quantized_choice import quantized_weight
from mp13.engine.linear.quantized_tensor import QuantizedTensor, quantize
from mp13.engine.linear.quantized_weight import DequantizedWeight, QuantizedEmbedding, QuantizedWeight
from tests.engine.memory import LiveBytes

CPU = torch.device("cpu")
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 5e-3}
every_width = pytest.mark.parametrize("bits", [8, 4, 3, 2])
both_axes = pytest.mark.parametrize("axis", [0, 1])


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def quantized(
    rows: int, width: int, bits: int, group_size: int = 32, axis: int = 1, dtype: torch.dtype = torch.float32
) -> QuantizedTensor:
    return quantize(noise(rows, width), bits, group_size, axis, dtype, CPU)


def relative_error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found.float() - wanted).norm() / wanted.norm())


def kept_bytes(weight: QuantizedWeight) -> int:
    """Of every tensor that it holds, wherever."""
    tensors = [value for value in vars(weight).values() if isinstance(value, torch.Tensor)]
    inner = sum(tensor.num_bytes for tensor in vars(weight).get("_tensors", ()))
    return inner + sum(t.numel() * t.element_size() for t in tensors)


@every_width
@both_axes
def test_codes_scales_and_zeros_are_those_of_hqq(bits: int, axis: int) -> None:
    weight = noise(40, 96)
    packed, meta = Quantizer.quantize(weight, nbits=bits, group_size=32, axis=axis, device="cpu")
    ours = quantize(weight, bits, 32, axis, torch.float32, CPU)
    wanted = Quantizer.dequantize(packed, meta | {"compute_dtype": torch.float32})
    torch.testing.assert_close(ours.dense(torch.float32), wanted, atol=2e-6, rtol=0)
    assert torch.equal(ours.packed, packed)


@every_width
@both_axes
def test_in_pieces_it_comes_out_as_well(bits: int, axis: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """hqq stops when the error of what it was given grows, so that pieces may end a step apart."""
    weight = noise(33, 96)
    whole = quantize(weight, bits, 32, axis, torch.float32, CPU).dense(torch.float32)
    monkeypatch.setattr(quantized_tensor, "_CHUNK", 700)
    pieces = quantize(weight, bits, 32, axis, torch.float32, CPU).dense(torch.float32)
    assert relative_error(pieces, weight) <= 1.02 * relative_error(whole, weight)


@every_width
def test_some_rows_are_those_of_the_whole(bits: int) -> None:
    tensor = quantized(37, 96, bits)  # no multiple of what is packed together
    some = torch.tensor([36, 0, 5, 5, 19])
    assert torch.equal(tensor.rows(some, torch.float32), tensor.dense(torch.float32)[some])
    ids = some[:4].view(2, 2)
    assert torch.equal(QuantizedEmbedding(tensor, torch.bfloat16)(ids), tensor.dense(torch.bfloat16)[ids])


@every_width
@both_axes
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_pieces_one_under_the_other_are_the_whole(
    bits: int, axis: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = [quantized(n, 96, bits, axis=axis, dtype=torch.bfloat16) for n in (37, 64)]  # rows lie across runs
    monkeypatch.setattr(quantized_weight_module, "UNPACKED", 5 * 96)
    pieces, whole = list(DequantizedWeight(tensors, None).pieces(dtype)), [tensor.dense(dtype) for tensor in tensors]
    assert torch.equal(torch.cat(pieces), torch.cat(whole))
    assert max(map(len, pieces)) == (64 if axis == 0 else 5)


@pytest.mark.parametrize("kernel", [True, False])
def test_a_product_dequantizes_no_more_than_a_piece_at_a_time(kernel: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = [quantized(640, 512, 4, 64), quantized(384, 512, 4, 64)]
    weight = (Int4CPUWeight if kernel else DequantizedWeight)(tensors, None)
    x, piece = noise(3, 512), 64 * 512
    wanted = x @ torch.cat([tensor.dense(torch.float32) for tensor in tensors]).T
    for module in (quantized_weight_module, int4_cpu):
        monkeypatch.setattr(module, "UNPACKED", piece)
    with LiveBytes() as meter:
        y = weight.many(x)
    assert relative_error(y, wanted) <= TOLERANCE[torch.float32]
    assert 4 * piece <= meter.peak <= 1.5 * 4 * piece + 2 * y.nbytes  # float32, and the codes on their way


@every_width
@both_axes
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 7, 400])
def test_products_of_a_dequantized_weight(bits: int, axis: int, dtype: torch.dtype, rows: int) -> None:
    tensors = [quantized(n, 96, bits, axis=axis, dtype=dtype) for n in (32, 16)]
    bias, x = noise(48).to(dtype), noise(2, rows, 96, seed=1).to(dtype)
    weight = DequantizedWeight(tensors, bias)
    wanted = x.float() @ torch.cat([t.dense(torch.float32) for t in tensors]).T + bias.float()
    assert weight(x).dtype == dtype
    assert relative_error(weight(x), wanted) <= TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("group_size", [32, 64, 128, 256])
@pytest.mark.parametrize("sizes", [(64,), (96, 32), (80,), (16, 16, 16)], ids=str)
@pytest.mark.parametrize("rows", [1, 2, 40])
def test_products_of_the_int4_kernel(dtype: torch.dtype, group_size: int, sizes: tuple[int, ...], rows: int) -> None:
    tensors = [quantized(n, 512, 4, group_size, dtype=dtype) for n in sizes]
    bias, x = noise(sum(sizes)).to(dtype), noise(rows, 512, seed=1).to(dtype)
    weight = Int4CPUWeight(tensors, bias)
    weight.few_rows = 40
    dense = torch.cat([t.dense(torch.float32) for t in tensors])
    assert relative_error(weight(x), x.float() @ dense.T + bias.float()) <= TOLERANCE[dtype]
    assert torch.equal(weight.dense(torch.float32), dense)
    assert torch.equal(weight.rows(3, 9), dense[3:9])


def test_few_rows_take_the_kernel_and_many_a_dequantized_product(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = quantized_weight([quantized(64, 64, 4, dtype=torch.bfloat16)], None, demanded=False)
    assert isinstance(weight, Int4CPUWeight) and weight.few_rows > 1
    calls: list[int] = []
    few = weight.few
    monkeypatch.setattr(weight, "few", lambda x: calls.append(len(x)) or few(x))
    for rows in (1, weight.few_rows, weight.few_rows + 1, 0):
        assert weight(torch.ones(rows, 64).bfloat16()).shape == (rows, 64)
    assert calls == [1, weight.few_rows]


def test_float32_activations_keep_their_dtype_beside_bfloat16_scales() -> None:
    tensor, x = quantized(64, 64, 4, dtype=torch.bfloat16), noise(3, 64)
    for weight in (Int4CPUWeight([tensor], None), DequantizedWeight([tensor], None)):
        assert weight(x).dtype == torch.float32
        assert relative_error(weight(x), x @ tensor.dense(torch.float32).T) <= TOLERANCE[torch.bfloat16]


@pytest.mark.parametrize(
    ("tensor", "demanded", "kind"),
    [
        (quantized(64, 64, 4, dtype=torch.bfloat16), False, Int4CPUWeight),
        (quantized(64, 64, 4), False, DequantizedWeight),  # float32, where the kernel is slower
        (quantized(64, 64, 4), True, Int4CPUWeight),
        (quantized(64, 64, 4, axis=0, dtype=torch.bfloat16), False, DequantizedWeight),
        (quantized(64, 64, 3, dtype=torch.bfloat16), False, DequantizedWeight),
        (quantized(40, 64, 4, dtype=torch.bfloat16), False, DequantizedWeight),  # 40 is no multiple of 16
        (quantized(64, 64, 4, 16, dtype=torch.bfloat16), False, DequantizedWeight),
    ],
)
def test_the_form_follows_from_width_axis_shape_and_dtype(
    tensor: QuantizedTensor, demanded: bool, kind: type[QuantizedWeight]
) -> None:
    assert type(quantized_weight([tensor], None, demanded=demanded)) is kind


def test_on_a_cpu_that_lays_out_in_an_unknown_way_it_is_dequantized(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int4_cpu, "_block_rows", lambda: None)
    tensor = quantized(64, 64, 4, dtype=torch.bfloat16)
    assert type(quantized_weight([tensor], None, demanded=False)) is DequantizedWeight


@pytest.mark.parametrize("bits", [8, 4, 3, 2])
def test_nothing_is_kept_but_codes_scales_and_zeros(bits: int) -> None:
    tensor = quantized(640, 512, bits, 64, dtype=torch.bfloat16)
    weight = quantized_weight([tensor], None, demanded=False)
    weight(noise(1, 512).bfloat16())
    weight(noise(1000, 512).bfloat16())
    expected = {8: 1, 4: 1 / 2, 3: 4 / 10, 2: 1 / 4}[bits] + 4 / 64  # bytes of a weight
    assert kept_bytes(weight) == pytest.approx(640 * 512 * expected, rel=1e-3)


@pytest.mark.parametrize("kernel", [True, False])
def test_gradients_reach_the_input_and_no_dense_weight_is_kept_for_them(kernel: bool) -> None:
    tensor, bias = quantized(64, 96, 4), noise(64)
    weight = (Int4CPUWeight if kernel else DequantizedWeight)([tensor], bias)
    x = noise(1, 96).requires_grad_()
    saved: list[torch.Tensor] = []
    with saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        y = weight(x)
    grad = noise(1, 64, seed=3)
    y.backward(grad)
    torch.testing.assert_close(x.grad, grad @ tensor.dense(torch.float32))
    assert not saved and not any(parameter.requires_grad for parameter in weight.parameters())


def test_a_3_billion_shape_at_4_bits_needs_at_most_045_of_its_bytes_in_bfloat16() -> None:
    """Llama-3.2-3B: 28 layers of these shapes are in 4 bits, the embedding, which is the head, stays in bfloat16."""
    hidden, inner, keys, vocab, layers = 3072, 8192, 1024, 128256, 28
    shapes = [(hidden + 2 * keys, hidden), (hidden, hidden), (2 * inner, hidden), (hidden, inner)]
    numbers = sum(rows * width for rows, width in shapes)
    held = 0
    for rows, width in shapes:
        tensor = quantize(torch.zeros(rows, width), 4, 64, 1, torch.bfloat16, CPU)
        held += kept_bytes(quantized_weight([tensor], None, demanded=False))
    assert held / (2 * numbers) <= 0.29
    embedding = 2 * vocab * hidden
    assert (layers * held + embedding) / (layers * 2 * numbers + embedding) <= 0.45
