"""The adapter that is being trained: all its numbers in one flat float32 tensor, of which A, B and DoRA's m are views.

One tensor is one thing to clip, to step, to save and to share among GPUs. How A, B and m act is
linear/trained_linear's; which modules have them, adapters/module_choice's.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from mp13.engine.adapters.module_choice import Clock, ModuleChoice, Names, Pattern, PatternError
from mp13.engine.adapters.tensor_plan import is_head
from mp13.engine.linear.adapted_linear import AdaptedLinear
from mp13.engine.linear.trained_linear import TrainedLinear, TrainedPart
from mp13.engine.models.interface import AdapterTarget
from mp13.engine.training.config import TrainConfig
from mp13.errors import ConfigError

_ALIGNMENT = 16  # numbers; every view begins at a multiple of 64 bytes


@dataclass(frozen=True)
class AdapterTensors:
    """One module's own. `frozen_a` and `frozen_b` are what PiSSA began with, negated in `frozen_b`."""

    a: torch.Tensor  # (rank, in_features)
    b: torch.Tensor  # (out_features, rank)
    magnitude: torch.Tensor | None = None  # (out_features,)
    frozen_a: torch.Tensor | None = None
    frozen_b: torch.Tensor | None = None


class TrainableAdapter:
    """
    Args:
        targets: of the model.
        dtype: of the products.

    Attributes:
        flat: all trained numbers, float32, a parameter with its gradient.
        linears: what each changed linear of the model computes.
        tensors: by the module's path.
        all_paths: of the modules that could be trained.

    Raises:
        ConfigError: no module of the model is chosen, or the pattern cannot be used.
    """

    def __init__(
        self,
        targets: Mapping[str, AdapterTarget],
        config: TrainConfig,
        *,
        vocab_size: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.config, self._dtype, self._device = config, dtype, device
        chosen = _chosen(targets, config, vocab_size)
        self.all_paths = tuple(targets)
        grouped: dict[AdaptedLinear, list[str]] = {}
        for path in chosen:
            grouped.setdefault(targets[path].linear, []).append(path)
        size = sum(self._size(linear, paths, targets) for linear, paths in grouped.items())
        self.flat = nn.Parameter(torch.zeros(size, dtype=torch.float32, device=device))
        self.flat.grad = torch.zeros_like(self.flat)
        self.linears: dict[nn.Module, TrainedLinear] = {}
        self.tensors: dict[str, AdapterTensors] = {}
        self._taken = 0
        starts = _Starts(config)
        for linear, paths in grouped.items():
            self.linears[linear] = self._trained(linear, paths, targets, starts)

    @property
    def num_parameters(self) -> int:
        return sum(a.numel() for a in self._views())

    def weights_changed(self) -> None:
        """To be called after each change of `flat`."""
        for linear in self.linears.values():
            linear.weights_changed()

    def _views(self) -> Iterator[torch.Tensor]:
        for own in self.tensors.values():
            yield from (t for t in (own.a, own.b, own.magnitude) if t is not None)

    def _size(self, linear: AdaptedLinear, paths: list[str], targets: Mapping[str, AdapterTarget]) -> int:
        rank, rows = self.config.rank, [_rows(linear, targets[path].part) for path in paths]
        size = _aligned(rank * len(paths) * linear.in_features)
        size += sum(_aligned(rank * (r.stop - r.start)) for r in rows)
        return size + (sum(_aligned(r.stop - r.start) for r in rows) if self.config.kind == "dora" else 0)

    def _trained(
        self, linear: AdaptedLinear, paths: list[str], targets: Mapping[str, AdapterTarget], starts: "_Starts"
    ) -> TrainedLinear:
        rank, frozen = self.config.rank, []
        a = self._view(rank * len(paths), linear.in_features)
        parts = []
        for i, path in enumerate(paths):
            rows, columns = _rows(linear, targets[path].part), slice(i * rank, (i + 1) * rank)
            own_b = self._view(rows.stop - rows.start, rank)
            magnitude = self._view(rows.stop - rows.start) if self.config.kind == "dora" else None
            own = AdapterTensors(a.detach()[columns], own_b.detach(), None if magnitude is None else magnitude.detach())
            own = starts.fill(own, linear, rows)
            self.tensors[path] = own
            parts.append(TrainedPart(rows, columns, own_b, magnitude))
            if own.frozen_b is not None:
                frozen.append((rows, own.frozen_a, own.frozen_b))
        frozen_a = torch.cat([frozen_a for _, frozen_a, _ in frozen if frozen_a is not None]) if frozen else None
        for i, (rows, _, frozen_b) in enumerate(frozen, start=len(paths)):
            parts.append(TrainedPart(rows, slice(i * rank, (i + 1) * rank), frozen_b))
        return TrainedLinear(linear.base, a, parts, self.config.scale, self._dtype, frozen_a)

    def _view(self, *shape: int) -> torch.Tensor:
        """The next numbers of `flat`, as a leaf whose gradient is a view of the gradient of `flat`."""
        start, count = self._taken, math.prod(shape)
        self._taken += _aligned(count)
        assert self.flat.grad is not None
        leaf = self.flat.detach()[start : start + count].view(shape).requires_grad_()
        leaf.grad = self.flat.grad[start : start + count].view(shape)
        return leaf


class _Starts:
    """What each module begins with, drawn in the order of the modules."""

    def __init__(self, config: TrainConfig) -> None:
        self._config = config
        self._draw = torch.Generator().manual_seed(config.seed)

    @torch.no_grad()
    def fill(self, own: AdapterTensors, linear: AdaptedLinear, rows: slice) -> AdapterTensors:
        """`own`, its tensors filled in place, and with PiSSA its frozen ones added."""
        if self._config.init != "default":
            a, b = self._of_peft(linear.base.rows(rows.start, rows.stop))
            own.a.copy_(a)
            own.b.copy_(b)
            return AdapterTensors(own.a, own.b, None, a.to(own.a.device), -b.to(own.b.device))
        bound = 1 / math.sqrt(own.a.shape[1])  # Kaiming-uniform with a = √5; B stays 0
        own.a.copy_(torch.empty(own.a.shape).uniform_(-bound, bound, generator=self._draw))
        if own.magnitude is not None:
            own.magnitude.copy_(torch.linalg.vector_norm(linear.base.rows(rows.start, rows.stop), dim=1))
        return own

    def _of_peft(self, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What PEFT would begin with in a linear of this weight, whose copy it changes."""
        import peft  # takes longer to import than torch, and every engine imports this module

        config = self._config
        linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
        linear.weight = nn.Parameter(weight.clone())
        wrapped = nn.ModuleDict({"linear": linear})
        lora = peft.LoraConfig(
            r=config.rank, lora_alpha=config.full_alpha, use_rslora=config.kind == "rslora",
            init_lora_weights=config.init, target_modules=["linear"],
        )  # fmt: skip
        devices = [weight.device] if weight.device.type == "cuda" else []
        with torch.random.fork_rng(devices), torch.enable_grad():
            torch.manual_seed(int(torch.randint(2**62, (), generator=self._draw)))
            peft.inject_adapter_in_model(lora, wrapped)
        layer: Any = wrapped["linear"]
        return layer.lora_A["default"].weight.detach(), layer.lora_B["default"].weight.detach()


def _chosen(targets: Mapping[str, AdapterTarget], config: TrainConfig, vocab_size: int) -> list[str]:
    try:
        choice = ModuleChoice(_names(config.targets), config.rank, config.full_alpha)
        chosen = [p for p, target in targets.items() if choice.includes(p, is_head=is_head(target, vocab_size))]
    except PatternError as error:
        raise ConfigError(f"targets = {config.targets!r} cannot be used: {error}") from None
    if not chosen:
        names = sorted({path.rpartition(".")[2] for path in targets})
        raise ConfigError(f"targets = {config.targets!r} names no linear of this model; it has {', '.join(names)}")
    small = min(min(_shape(targets[path])) for path in chosen)
    if config.init != "default" and config.rank > small:
        raise ConfigError(
            f"init = {config.init!r} has {small} singular values in the smallest chosen linear, fewer than "
            f"rank = {config.rank}; give a smaller rank"
        )
    return chosen


def _names(targets: str | tuple[str, ...]) -> Names | None:
    if isinstance(targets, str):
        return None if targets.lower() == "all-linear" else Pattern(targets, Clock(), whole=True)
    return tuple(sorted(targets))


def _rows(linear: AdaptedLinear, part: int) -> slice:
    sizes = list(linear.parts.values())
    return slice(sum(sizes[:part]), sum(sizes[: part + 1]))


def _shape(target: AdapterTarget) -> tuple[int, int]:
    rows = _rows(target.linear, target.part)
    return rows.stop - rows.start, target.linear.in_features


def _aligned(count: int) -> int:
    return -(-count // _ALIGNMENT) * _ALIGNMENT
