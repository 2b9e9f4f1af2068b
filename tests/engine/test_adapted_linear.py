"""A linear with adapters beside it computes W x + b + the sum of each token's weighted deltas, in every form of W."""

import pytest
import torch

from mp13.engine.context import StepContext
from mp13.engine.linear import base_weight as base_weight_module
from mp13.engine.linear.adapted_linear import AdaptedLinear
from mp13.engine.linear.base_weight import base_weight
from mp13.engine.linear.delta import LinearDelta
from mp13.engine.linear.lora_batch import SlotWeights, make_lora_batch

IN, PARTS = 24, {"q": 20, "k": 8, "v": 8}
NO_ROWS = torch.tensor([], dtype=torch.int64)
TOKEN_RUNS: list[tuple[int, SlotWeights]] = [
    (3, [(0, 1.0)]),
    (2, []),
    (1, [(5, -0.4), (2, 0.7)]),
    (4, [(2, 1.0)]),
    (0, [(0, 1.0)]),
]
NEEDS_FBGEMM = pytest.mark.skipif(
    torch.backends.quantized.engine not in ("fbgemm", "x86"), reason="torch has no FBGEMM here"
)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def lora(rank: int, part: str, seed: int, gain: bool = False) -> LinearDelta:
    out = PARTS[part]
    return LinearDelta(noise(rank, IN, seed=seed), noise(out, rank, seed=seed), noise(out, seed=seed) if gain else None)


# Ranks, parts and kinds differ from slot to slot and from part to part.
DELTAS = {
    0: {0: lora(4, "q", 1), 2: lora(2, "v", 2)},
    2: {0: lora(3, "q", 3, gain=True), 1: lora(5, "k", 4), 2: lora(1, "v", 5, gain=True)},
    5: {1: lora(2, "k", 6, gain=True)},
    7: {part: lora(8, name, 7) for part, name in enumerate(PARTS)},  # never in use
}


class Layer:
    def __init__(self, bias: bool = True, dtype: torch.dtype = torch.float32, of_rows: bool = False) -> None:
        out = sum(PARTS.values())
        self.context = StepContext()
        self.weight, self.bias = noise(out, IN).to(dtype), noise(out).to(dtype) if bias else None
        self.linear = AdaptedLinear(base_weight(self.weight, self.bias), self.context, PARTS, of_rows=of_rows)
        for slot, deltas in DELTAS.items():
            self.linear.write(slot, deltas)

    def run(self, x: torch.Tensor, runs: list[tuple[int, SlotWeights]], rows: torch.Tensor = NO_ROWS) -> torch.Tensor:
        self.context.lora = make_lora_batch(runs, rows)
        result: torch.Tensor = self.linear(x.clone())
        return result

    def expected(self, x: torch.Tensor, adapters: list[SlotWeights]) -> torch.Tensor:
        base = x.float() @ self.weight.float().T
        total = base.clone()
        for token, mix in enumerate(adapters):
            for slot, weight in mix:
                for part, delta in DELTAS[slot].items():
                    start = sum(list(PARTS.values())[:part])
                    rows = slice(start, start + delta.b.shape[0])
                    total[token, rows] += weight * (delta.b @ (delta.a @ x[token].float()))
                    if delta.gain is not None:
                        total[token, rows] += weight * delta.gain * base[token, rows]
        return total if self.bias is None else total + self.bias.float()


def per_token(runs: list[tuple[int, SlotWeights]]) -> list[SlotWeights]:
    return [mix for count, mix in runs for _ in range(count)]


@pytest.mark.parametrize("bias", [True, False])
def test_each_token_gets_its_own_sum_of_deltas(bias: bool) -> None:
    layer, x = Layer(bias), noise(10, IN, seed=9)
    torch.testing.assert_close(layer.run(x, TOKEN_RUNS), layer.expected(x, per_token(TOKEN_RUNS)), atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("mix", [[(0, 1.0)], [(2, 1.0)], [(0, 1.0), (2, 1.0), (5, 1.0)]])
def test_a_batch_of_one_mix_at_full_strength(mix: SlotWeights) -> None:
    layer, x = Layer(), noise(4, IN, seed=9)
    torch.testing.assert_close(layer.run(x, [(1, mix), (3, mix)]), layer.expected(x, [mix] * 4), atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_token_without_adapters_and_one_of_weight_0_get_exactly_the_base(dtype: torch.dtype) -> None:
    layer, x = Layer(dtype=dtype), noise(4, IN, seed=9).to(dtype)
    base = layer.run(x, [(4, [])])
    mixed = layer.run(x, [(1, []), (1, [(2, 0.0)]), (2, [(2, 0.5)])])
    assert torch.equal(mixed[:2], base[:2]) and not torch.equal(mixed[2:], base[2:])


def test_an_adapter_that_is_not_in_use_is_not_computed_with() -> None:
    layer, x = Layer(), noise(4, IN, seed=9)
    before = layer.run(x, [(4, [(0, 1.0), (2, 0.5)])])
    layer.linear.write(7, {0: LinearDelta(torch.full((64, IN), torch.nan), torch.full((20, 64), torch.nan))})
    assert torch.equal(layer.run(x, [(4, [(0, 1.0), (2, 0.5)])]), before)


def test_what_is_written_into_a_slot_replaces_what_was_there() -> None:
    layer, x = Layer(), noise(4, IN, seed=9)
    base, mix = layer.run(x, [(4, [])]), [(4, [(2, 1.0)])]
    assert not torch.equal(layer.run(x, mix), base)
    layer.linear.write(2, DELTAS[0])
    assert torch.equal(layer.run(x, mix), layer.run(x, [(4, [(0, 1.0)])]))
    layer.linear.write(2, {})
    assert torch.equal(layer.run(x, mix), base)
    layer.linear.erase(0)
    assert torch.equal(layer.run(x, [(4, [(0, 1.0)])]), base)


def test_a_head_takes_the_weights_of_the_rows_it_is_given() -> None:
    layer, x = Layer(of_rows=True), noise(10, IN, seed=9)
    rows = torch.tensor([2, 4, 5, 9])
    expected = layer.expected(x, per_token(TOKEN_RUNS))[rows]
    torch.testing.assert_close(layer.run(x[rows], TOKEN_RUNS, rows), expected, atol=2e-5, rtol=1e-5)
    assert layer.run(x[:0], TOKEN_RUNS, NO_ROWS).shape == (0, 36)


def test_activations_may_have_a_batch_dimension() -> None:
    layer, x = Layer(), noise(10, IN, seed=9)
    assert torch.equal(layer.run(x[None], TOKEN_RUNS)[0], layer.run(x, TOKEN_RUNS))


@pytest.mark.parametrize("activations", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("packed", [pytest.param(True, marks=NEEDS_FBGEMM), False])
def test_bfloat16_weights_in_either_form(
    packed: bool, activations: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base_weight_module, "has_fast_bfloat16", lambda: not packed)
    layer, x = Layer(dtype=torch.bfloat16), noise(10, IN, seed=9).to(activations)
    result = layer.run(x, TOKEN_RUNS)
    assert result.dtype == activations
    expected = layer.expected(x, per_token(TOKEN_RUNS))
    exact = packed and activations == torch.float32
    torch.testing.assert_close(result.float(), expected, atol=1e-4 if exact else 0.5, rtol=1e-4 if exact else 0.02)


@pytest.mark.parametrize("runs", [TOKEN_RUNS, [(10, [(2, 1.0), (7, 1.0)])]])
@pytest.mark.parametrize("packed", [pytest.param(True, marks=NEEDS_FBGEMM), False])
def test_steps_of_few_and_of_many_tokens_compute_the_same(
    packed: bool, runs: list[tuple[int, SlotWeights]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a CPU few tokens read the rows of their own adapters; many share products with all of them."""
    monkeypatch.setattr(base_weight_module, "has_fast_bfloat16", lambda: not packed)
    layer, x = Layer(dtype=torch.bfloat16), noise(10, IN, seed=9).to(torch.float32 if packed else torch.bfloat16)
    few, many = layer.run(x, runs), layer.run(x.repeat(20, 1), runs * 20)
    torch.testing.assert_close(few.float(), layer.expected(x, per_token(runs)), atol=0.5, rtol=0.02)
    for rows in many.split(10):
        torch.testing.assert_close(rows.float(), few.float(), atol=1e-3 if packed else 0.5, rtol=0.02)


@pytest.mark.parametrize("runs", [TOKEN_RUNS * 20, [(50, [(slot, 1.0)]) for slot in DELTAS]])
@pytest.mark.parametrize("packed", [pytest.param(True, marks=NEEDS_FBGEMM), False])
def test_many_tokens_get_each_their_own_sum_of_deltas(
    packed: bool, runs: list[tuple[int, SlotWeights]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Few of the adapters in use for each token, or many."""
    monkeypatch.setattr(base_weight_module, "has_fast_bfloat16", lambda: False)
    layer, x = Layer(dtype=torch.bfloat16 if packed else torch.float32), noise(200, IN, seed=9)
    torch.testing.assert_close(layer.run(x, runs), layer.expected(x, per_token(runs)), atol=5e-5, rtol=5e-5)


@NEEDS_FBGEMM
def test_what_others_in_a_step_of_few_tokens_use_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base_weight_module, "has_fast_bfloat16", lambda: False)
    layer, x = Layer(dtype=torch.bfloat16), noise(4, IN, seed=9)
    alone = layer.run(x[:1], [(1, [(2, 0.7)])]) - layer.run(x[:1], [(1, [])])
    beside = layer.run(x, [(1, [(2, 0.7)]), (3, [(7, 1.0)])])[:1] - layer.run(x, [(4, [])])[:1]
    torch.testing.assert_close(beside, alone, atol=1e-5, rtol=0)


def test_float32_weights_have_float32_adapters_step_after_step() -> None:
    layer, x = Layer(), noise(10, IN, seed=9)
    first, *others = [layer.run(x, TOKEN_RUNS) for _ in range(12)]
    assert all(torch.equal(other, first) for other in others)


def test_going_back_and_forth_between_adapters_gives_each_its_own() -> None:
    layer, x = Layer(), noise(4, IN, seed=9)
    for _ in range(3):
        for slot in DELTAS:
            expected = layer.expected(x, [[(slot, 1.0)]] * 4)
            torch.testing.assert_close(layer.run(x, [(4, [(slot, 1.0)])]), expected, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("packed", [pytest.param(True, marks=NEEDS_FBGEMM), False])
def test_the_weight_of_a_part_comes_back_in_float32(
    packed: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base_weight_module, "has_fast_bfloat16", lambda: not packed)
    layer = Layer(dtype=dtype)
    for part, rows in enumerate(layer.weight.float().split(list(PARTS.values()))):
        weight = layer.linear.part_weight(part)
        assert weight.dtype == torch.float32
        torch.testing.assert_close(weight, rows, atol=2**-25, rtol=0)


def test_a_step_of_which_no_token_uses_an_adapter_has_no_adapter_side() -> None:
    assert make_lora_batch([(3, []), (1, [])], NO_ROWS) is None
    assert make_lora_batch([(0, [(1, 1.0)]), (3, [])], NO_ROWS) is None
