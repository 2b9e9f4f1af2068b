"""Training on a GPU: gradients are those of the CPU in float32, upon weights in full and in few bits."""

from pathlib import Path
from typing import Any

import pytest
import torch

from mp13.engine.attention.documents import Documents, attend_documents
from mp13.engine.attention.registry import AttentionSpec
from mp13.engine.linear.base_weight import DenseWeight
from mp13.engine.training.config import TrainConfig
from mp13.engine.training.events import Finished
from mp13.engine.training.trainer import Trainer
from tests.engine.tiny_models import tiny_model
from tests.engine.training_world import ORIGIN, Ours, base_of, random_rows, relative_error

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")]
ROWS = random_rows(20, 7, 33, 150)
KINDS = ("lora", "rslora", "dora")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    families = {"llama": {"head_dim": 64}, "mistral": {"head_dim": 64}, "gemma2": {}, "phi3": {}}
    return {name: tiny_model(tmp_path_factory.mktemp(name), name, **fields) for name, fields in families.items()}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2", "phi3"])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-3), ("bfloat16", 0.1)])
def test_gradients_are_those_of_the_cpu(
    models: dict[str, Path], family: str, kind: str, dtype: str, tolerance: float
) -> None:
    loss, expected = Ours(base_of(models[family]), kind=kind).train(ROWS)
    found_loss, found = Ours(base_of(models[family], device="cuda", dtype=dtype), kind=kind).train(ROWS)
    assert found_loss == pytest.approx(loss, rel=tolerance)
    assert relative_error(found.cpu(), expected) < tolerance


@pytest.mark.parametrize("quantization", ["hqq-4bit", "hqq-4bit g32 axis0", "hqq-8bit head 8bit"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_upon_few_bits(models: dict[str, Path], quantization: str, checkpointing: bool) -> None:
    """They are those upon the same weights in full."""
    base = base_of(models["llama"], quantization=quantization, device="cuda", dtype="bfloat16")
    _, found = Ours(base, gradient_checkpointing=checkpointing).train(ROWS)
    for linear in {target.linear for target in base.model.targets.values()}:
        linear.base = DenseWeight(linear.base.rows(0, linear.out_features).bfloat16(), linear.base.bias)
    assert relative_error(found, Ours(base).train(ROWS)[1]) < 0.1


@pytest.mark.parametrize("window", [None, 20])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_packed_attention_is_that_of_each_text(window: int | None, dtype: torch.dtype) -> None:
    lens, spec = (40, 1, 37, 300, 5), AttentionSpec(0.2, window)
    draw = torch.Generator().manual_seed(0)
    exact = [torch.randn(sum(lens), n, 64, generator=draw).requires_grad_() for n in (6, 2, 2)]
    given = [x.detach().to("cuda", dtype).requires_grad_() for x in exact]
    grad = torch.randn(sum(lens), 6, 64, generator=draw)
    expected = attend_documents(*exact, spec, Documents(lens))
    found = attend_documents(*given, spec, Documents(lens))
    tolerance = 1e-4 if dtype == torch.float32 else 0.02
    assert relative_error(found.detach().float().cpu(), expected.detach()) < tolerance
    pairs = zip(
        torch.autograd.grad(found, given, grad.to("cuda", dtype)),
        torch.autograd.grad(expected, exact, grad),
        strict=True,
    )
    assert all(relative_error(one.float().cpu(), other) < tolerance for one, other in pairs)


@pytest.mark.parametrize("options", [{}, {"dropout": 0.1, "gradient_checkpointing": True, "kind": "dora"}], ids=str)
def test_a_whole_run(models: dict[str, Path], tmp_path: Path, options: dict[str, Any]) -> None:
    base = base_of(models["llama"], device="cuda", dtype="bfloat16")
    config = TrainConfig(rank=4, lr=5e-3, batch_tokens=256, steps=30, save_every=10, **options)
    trainer = Trainer(base, ROWS, config, tmp_path / "a", ORIGIN, eval_rows=ROWS[:1])
    *_, finished = trainer.run()
    assert isinstance(finished, Finished) and finished.reason == "done"
    assert finished.first_loss is not None and finished.last_loss is not None
    assert finished.last_loss < 0.8 * finished.first_loss
