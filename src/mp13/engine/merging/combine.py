"""Several adapters become one. The exact way is ours: side by side on the rank axis. The others are PEFT's."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import peft
import torch
from peft.tuners.lora import LoraLayer
from torch import nn

from mp13.engine.linear.delta import LinearDelta
from mp13.engine.merging.request import EXACT_METHOD
from mp13.errors import AdapterError

Deltas = dict[str, LinearDelta]  # by module path
_RESULT = "merged"


@dataclass(frozen=True)
class Member:
    """An adapter of the mix, in float32. `scales` are those that its B matrices already carry."""

    name: str
    weight: float
    deltas: Mapping[str, LinearDelta]
    scales: Mapping[str, float]

    @property
    def rank(self) -> int:
        return max(delta.a.shape[0] for delta in self.deltas.values())


def combine(members: Sequence[Member], method: str, *, rank: int | None, density: float | None, seed: int) -> Deltas:
    """The mix as one change of each linear, scale 1. Only the exact method takes members with gains.

    Raises:
        AdapterError: the method cannot merge these adapters.
    """
    if method == EXACT_METHOD:
        return _side_by_side(members)
    if method.endswith("svd"):  # early versions of PEFT count the scale twice there
        members = [replace(member, scales=dict.fromkeys(member.deltas, 1.0)) for member in members]
        if len(members) == 1:  # PEFT would silently choose another method
            members = [replace(members[0], weight=members[0].weight / 2)] * 2
    _check_ranks(members, method)
    torch.manual_seed(seed)
    model = _skeleton(members)
    names, weights = [str(i) for i in range(len(members))], [member.weight for member in members]
    try:
        model.base_model.add_weighted_adapter(
            names, weights, _RESULT, combination_type=method, svd_rank=rank, svd_full_matrices=False, density=density
        )
    except (ValueError, RuntimeError) as error:
        raise AdapterError(f"PEFT {peft.__version__} cannot merge these by {method!r}: {error}; use cat") from error
    return {
        path: LinearDelta(layer.lora_A[_RESULT].weight.data, layer.lora_B[_RESULT].weight.data)
        for path, layer in _lora_layers(model).items()
    }


def _side_by_side(members: Sequence[Member]) -> Deltas:
    result = {}
    for path in sorted({path for member in members for path in member.deltas}):
        parts = [(member.deltas[path], member.weight) for member in members if path in member.deltas]
        gains = [weight * delta.gain for delta, weight in parts if delta.gain is not None]
        result[path] = LinearDelta(
            torch.cat([delta.a for delta, _ in parts]),
            torch.cat([weight * delta.b for delta, weight in parts], dim=1),
            sum(gains[1:], gains[0]) if gains else None,
        )
    return result


def _check_ranks(members: Sequence[Member], method: str) -> None:
    if len(members) == 1 and method != "linear":
        raise AdapterError(f"{method!r} weighs adapters against each other and needs two or more; use cat or svd")
    if method.endswith("svd"):
        return
    ranks: dict[str, int] = {}
    for member in members:
        for path, delta in member.deltas.items():
            if ranks.setdefault(path, delta.a.shape[0]) != delta.a.shape[0]:
                way = "svd" if method == "linear" else f"{method}_svd"
                raise AdapterError(
                    f"{method!r} needs equal ranks, but {member.name!r} has rank {delta.a.shape[0]} in {path} where "
                    f"another has {ranks[path]}; use {way} or cat"
                )


def _skeleton(members: Sequence[Member]) -> peft.PeftModel:
    """Just the adapted linears, without weights of their own, under PEFT's layers with the members as "0", "1", …"""
    base = nn.Module()
    for path, delta in {path: delta for member in members for path, delta in member.deltas.items()}.items():
        _plant(base, path, _weightless_linear(delta.a.shape[1], delta.b.shape[0]))
    model: peft.PeftModel | None = None
    for i, member in enumerate(members):
        config = peft.LoraConfig(r=member.rank, lora_alpha=member.rank, target_modules=sorted(member.deltas))
        if model is None:
            model = peft.get_peft_model(base, config, str(i))
        else:
            model.add_adapter(str(i), config)
        layers = _lora_layers(model)
        for path, delta in member.deltas.items():
            layers[path].scaling[str(i)] = member.scales[path]
            layers[path].lora_A[str(i)].weight.data = delta.a
            layers[path].lora_B[str(i)].weight.data = delta.b / member.scales[path]
    assert model is not None
    return model


def _plant(root: nn.Module, path: str, leaf: nn.Module) -> None:
    *parents, name = path.split(".")
    for parent in parents:
        if parent not in dict(root.named_children()):
            root.add_module(parent, nn.Module())
        root = root.get_submodule(parent)
    root.add_module(name, leaf)


def _weightless_linear(in_features: int, out_features: int) -> nn.Linear:
    """PEFT asks a base weight for its shape, type and device only: one number stands for all of it."""
    linear = nn.Linear(in_features, out_features, bias=False, device="meta")
    linear.weight = nn.Parameter(torch.zeros(1).expand(out_features, in_features), requires_grad=False)
    return linear


def _lora_layers(model: peft.PeftModel) -> dict[str, LoraLayer]:
    modules = model.base_model.model.named_modules()
    return {path: module for path, module in modules if isinstance(module, LoraLayer)}
