"""Adapters train upon every form that the base's weights are kept in, and upon what PiSSA leaves of them."""

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM

from mp13.engine.linear import base_weight as base_weight_module
from mp13.engine.linear import quantized_weight as quantized_weight_module
from mp13.engine.linear.base_weight import DenseWeight, PackedHalfWeight
from mp13.engine.linear.quantized_tensor import QuantizedTensor
from mp13.engine.models.decoder import Decoder
from mp13.engine.training.adapter import TrainableAdapter
from mp13.engine.training.batch import packed_row
from mp13.engine.training.config import TrainConfig
from mp13.engine.training.passes import Passes
from tests.engine.tiny_models import dtype_argument, tiny_model
from tests.engine.training_world import CPU, Ours, Theirs, base_of, random_rows, relative_error

ROWS = random_rows(20, 7, 33)
KINDS = ("lora", "rslora", "dora")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {family: tiny_model(tmp_path_factory.mktemp(family), family) for family in ("llama", "gemma3")}


class TestBaseWeights:
    @pytest.mark.parametrize("impl", ["native", "transformers"])
    @pytest.mark.parametrize(
        "quantization", ["hqq-4bit g32", "hqq-8bit g32 head 8bit", "hqq-3bit g32 axis0", "hqq-2bit"]
    )
    @pytest.mark.parametrize("kind", KINDS)
    def test_upon_quantized_weights_gradients_are_those_upon_the_same_weights_in_full(
        self, models: dict[str, Path], impl: str, quantization: str, kind: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(quantized_weight_module, "UNPACKED", 1000)  # in many pieces
        base = base_of(models["llama"], model_impl=impl, quantization=quantization)
        quantized = Ours(base, kind=kind)
        loss, grad = quantized.train(ROWS)
        for linear in {target.linear for target in base.model.targets.values()}:
            rows = linear.base.rows(0, linear.out_features)
            linear.base = DenseWeight(rows, linear.base.bias)
        full = Ours(base, kind=kind)
        full_loss, full_grad = full.train(ROWS)
        assert loss == pytest.approx(full_loss, rel=1e-5)
        assert relative_error(grad, full_grad) < 1e-4

    @pytest.mark.parametrize("kind", KINDS)
    def test_upon_weights_packed_as_float16_on_a_cpu_without_bfloat16(
        self, models: dict[str, Path], kind: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(base_weight_module, "has_fast_bfloat16", lambda: False)
        base = base_of(models["llama"], dtype="bfloat16")
        assert isinstance(base.model, Decoder) and isinstance(base.model.head.base, PackedHalfWeight)
        assert base.dtype == torch.float32
        ours = Ours(base, kind=kind)
        loss, grad = ours.train(ROWS)
        for linear in {target.linear for target in base.model.targets.values()}:
            linear.base = DenseWeight(linear.base.rows(0, linear.out_features), linear.base.bias)
        full_loss, full_grad = Ours(base, kind=kind).train(ROWS)
        assert loss == pytest.approx(full_loss, rel=1e-4)
        assert relative_error(grad, full_grad) < 1e-3

    @pytest.mark.parametrize("kind", KINDS)
    def test_in_bfloat16_gradients_are_near_those_in_float32(self, models: dict[str, Path], kind: str) -> None:
        _, exact = Ours(base_of(models["llama"]), kind=kind).train(ROWS)
        half = Ours(base_of(models["llama"], dtype="bfloat16"), kind=kind)
        assert half.base.dtype == torch.bfloat16
        _, grad = half.train(ROWS)
        assert grad.dtype == torch.float32 and relative_error(grad, exact) < 0.1

    @pytest.mark.parametrize("quantization", ["none", "hqq-4bit g32"])
    def test_nothing_of_the_base_is_copied_or_kept_and_nothing_gets_a_gradient(
        self, models: dict[str, Path], quantization: str
    ) -> None:
        base = base_of(models["llama"], quantization=quantization)
        before = kept_bytes(base.model)
        ours = Ours(base)
        ours.train(ROWS)
        assert kept_bytes(base.model) == before
        assert isinstance(base.model, torch.nn.Module)
        assert all(parameter.grad is None for parameter in base.model.parameters())

    def test_a_bridged_model_trains_there_too(self, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(base_weight_module, "has_fast_bfloat16", lambda: False)
        _, exact = Ours(base_of(models["gemma3"])).train(ROWS)
        _, grad = Ours(base_of(models["gemma3"], dtype="bfloat16")).train(ROWS)
        assert relative_error(grad, exact) < 0.1


def kept_bytes(model: Any) -> int:
    """Of every tensor that a module of the model holds, wherever, each storage once."""
    found: dict[int, int] = {}

    def visit(value: Any) -> None:
        if isinstance(value, torch.Tensor):
            found[value.data_ptr() if value.layout == torch.strided else id(value)] = value.nbytes
        elif isinstance(value, QuantizedTensor):
            visit((value.packed, value.scale, value.zero))
        elif isinstance(value, dict | list | tuple):
            for part in value.values() if isinstance(value, dict) else value:
                visit(part)

    for module in model.modules():
        visit({name: value for name, value in vars(module).items() if name != "_modules"})
    return sum(found.values())


class TestPiSSA:
    @pytest.mark.parametrize("init", ["pissa", "pissa_niter_4"])
    @pytest.mark.parametrize("kind", ["lora", "rslora"])
    def test_it_begins_as_the_base(self, models: dict[str, Path], init: str, kind: str) -> None:
        base = base_of(models["llama"])
        config = TrainConfig(rank=4, init=init, kind=kind)
        adapter = TrainableAdapter(base.model.targets, config, vocab_size=base.vocab_size, dtype=base.dtype, device=CPU)
        row = packed_row(ROWS, "all", CPU)
        plain = TrainableAdapter(
            base.model.targets, TrainConfig(rank=4), vocab_size=base.vocab_size, dtype=base.dtype, device=CPU
        )
        loss = Passes(base, adapter).loss(row)
        torch.testing.assert_close(loss, Passes(base, plain).loss(row), rtol=1e-5, atol=0)
        own = adapter.tensors["model.layers.0.mlp.up_proj"]
        weight = base.model.targets["model.layers.0.mlp.up_proj"].linear.part_weight(1)
        largest = torch.linalg.svdvals(config.scale * own.b @ own.a)[:4]
        rough = 0.1 if "niter" in init else 1e-3
        torch.testing.assert_close(largest, torch.linalg.svdvals(weight)[:4], rtol=rough, atol=0)

    def test_gradients_are_pefts_upon_the_base_without_what_it_began_with(self, models: dict[str, Path]) -> None:
        path = models["llama"]
        base = base_of(path)
        config = TrainConfig(rank=4, init="pissa")
        adapter = TrainableAdapter(base.model.targets, config, vocab_size=base.vocab_size, dtype=base.dtype, device=CPU)
        row = packed_row(ROWS, "assistant", CPU)
        Passes(base, adapter).backward(row, 1 / len(row.targets), 0)
        dtype = {dtype_argument(): torch.float32}
        model = AutoModelForCausalLM.from_pretrained(path, attn_implementation="eager", **dtype)
        lora = peft.LoraConfig(
            r=4, lora_alpha=config.full_alpha, init_lora_weights="pissa", target_modules=list(adapter.tensors)
        )
        theirs = Theirs(peft.get_peft_model(model, lora).eval())
        theirs.loss(ROWS).backward()
        ours = Ours.__new__(Ours)
        ours.adapter = adapter
        for name, parameter in theirs.parameters().items():
            assert parameter.grad is not None
            assert relative_error(ours.gradients()[name], parameter.grad) < 1e-3, name  # of two singular vectors
