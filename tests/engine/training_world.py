"""A tiny model with an adapter in training upon it, and the same in PEFT, whose gradients ours are held against."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peft
import torch
from torch.nn import functional as F
from transformers import AutoModelForCausalLM

from mp13.engine.config import EngineConfig
from mp13.engine.models.loader import LoadedModel, load_model
from mp13.engine.training.adapter import TrainableAdapter
from mp13.engine.training.batch import PackedRow, packed_row
from mp13.engine.training.config import TrainConfig
from mp13.engine.training.passes import Base, Passes
from mp13.engine.training.record import Origin
from mp13.engine.training.rows import TrainingRow
from tests.engine.tiny_models import VOCAB_SIZE, dtype_argument

CPU = torch.device("cpu")
ORIGIN = Origin("tiny", "b" * 64, "t" * 64)


def base_of(path: Path, **options: Any) -> Base:
    config = EngineConfig(str(path), **{"dtype": "float32", "device": "cpu", **options})
    return as_base(load_model(config, lambda stage, fraction: None))


def as_base(loaded: LoadedModel) -> Base:
    return Base(loaded.model, loaded.context, loaded.vocab_size, loaded.device, loaded.activation_dtype)


def random_rows(*lens: int, seed: int = 1, vocab_size: int = VOCAB_SIZE) -> list[TrainingRow]:
    """About half of each row's tokens carry loss, one at least."""
    draw = torch.Generator().manual_seed(seed)
    rows = []
    for length in lens:
        ids = torch.randint(3, vocab_size, (length,), generator=draw).tolist()
        mask = (torch.rand(length, generator=draw) > 0.5).tolist()
        rows.append(TrainingRow(ids, [*mask[:-1], True]))
    return rows


@torch.no_grad()
def pretend_to_have_trained(adapter: TrainableAdapter, seed: int = 2) -> None:
    """Random weights, B not 0, the change about half as large as the weights."""
    draw = torch.Generator().manual_seed(seed)
    for own in adapter.tensors.values():
        noise_a, noise_b = torch.randn(own.a.shape, generator=draw), torch.randn(own.b.shape, generator=draw)
        own.a.copy_(noise_a / own.a.shape[1] ** 0.5)
        own.b.copy_(noise_b / (2 * adapter.config.scale * own.a.shape[0] ** 0.5))
        if own.magnitude is not None:
            own.magnitude.mul_(1 + 0.3 * torch.randn(own.magnitude.shape, generator=draw).to(own.magnitude.device))
    adapter.weights_changed()


class Ours:
    """Our adapter on our model."""

    def __init__(self, base: Base, between: Any = lambda: None, **config: Any) -> None:
        self.base, self.config = base, TrainConfig(**{"rank": 4, **config})
        self.adapter = TrainableAdapter(
            base.model.targets, self.config, vocab_size=base.vocab_size, dtype=base.dtype, device=base.device
        )
        pretend_to_have_trained(self.adapter)
        self.passes = Passes(base, self.adapter, between)

    def row(self, rows: Sequence[TrainingRow]) -> PackedRow:
        return packed_row(rows, self.config.loss, self.base.device)

    def train(self, rows: Sequence[TrainingRow], *, draw: int = 0) -> tuple[float, torch.Tensor]:
        """The mean loss of one packed row, and the flat gradient."""
        assert self.adapter.flat.grad is not None
        self.adapter.flat.grad.zero_()
        packed = self.row(rows)
        loss = float(self.passes.backward(packed, 1 / len(packed.targets), draw)) / len(packed.targets)
        return loss, self.adapter.flat.grad.clone()

    def gradients(self) -> dict[str, torch.Tensor]:
        """By PEFT's names, as the last pass left them."""
        flat, found = self.adapter.flat.grad, {}
        assert flat is not None
        for path, own in self.adapter.tensors.items():
            for name, view in (("lora_A", own.a), ("lora_B", own.b), ("lora_magnitude_vector", own.magnitude)):
                if view is not None:
                    start = view.storage_offset()
                    found[f"{path}.{name}"] = flat[start : start + view.numel()].view(view.shape)
        return found


@dataclass
class Theirs:
    """PEFT's adapter of the same weights, on the eager model of Transformers."""

    model: peft.PeftModel

    @classmethod
    def like(cls, ours: Ours, path: Path) -> "Theirs":
        config = ours.config
        dtype = {dtype_argument(): torch.float32}
        model = AutoModelForCausalLM.from_pretrained(path, attn_implementation="eager", use_safetensors=True, **dtype)
        lora = peft.LoraConfig(
            r=config.rank, lora_alpha=config.full_alpha, use_rslora=config.kind == "rslora",
            use_dora=config.kind == "dora", target_modules=list(ours.adapter.tensors),
        )  # fmt: skip
        theirs = cls(peft.get_peft_model(model, lora).eval())
        for name, parameter in theirs.parameters().items():
            parameter.data.copy_(theirs.own(ours, name))
        return theirs

    def own(self, ours: Ours, name: str) -> torch.Tensor:
        path, _, side = name.rpartition(".")
        tensors = ours.adapter.tensors[path]
        found = {"lora_A": tensors.a, "lora_B": tensors.b, "lora_magnitude_vector": tensors.magnitude}[side]
        assert found is not None
        return found

    def parameters(self) -> dict[str, torch.nn.Parameter]:
        trained = [(n, p) for n, p in self.model.base_model.model.named_parameters() if p.requires_grad]
        return {name.replace(".default.weight", ""): parameter for name, parameter in trained}

    def loss(self, rows: Sequence[TrainingRow], loss: str = "assistant") -> torch.Tensor:
        """The mean over all loss tokens, each sample by itself."""
        losses = []
        for row in rows:
            ids, learned = torch.tensor([list(row.ids)]), torch.tensor(row.learned(loss))
            logits = self.model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits[0]
            losses.append(F.cross_entropy(logits[learned - 1].float(), ids[0, learned], reduction="none"))
        return torch.cat(losses).mean()


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())
