"""Which tensor of the file belongs to which linear of the model, judged by names and shapes alone.

Trainers and releases write a module's name in several ways; those that can mean only one module are understood.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from mp13.engine.adapters.adapter_config import LoraSettings, merge_hint, short
from mp13.engine.adapters.module_choice import PatternError
from mp13.engine.adapters.tensor_file import OpenTensorFile
from mp13.engine.models.interface import AdapterTarget
from mp13.errors import AdapterError

A, B, MAGNITUDE, BASE_COPY = "lora_A", "lora_B", "lora_magnitude_vector", "base_layer"
_TENSOR = re.compile(
    r"(?P<module>.+)\.(?:(?P<side>lora_A|lora_B)(?:\.default)?\.weight"
    r"|(?P<magnitude>lora_magnitude_vector)(?:\.default)?(?:\.weight)?"
    r"|(?P<copy>base_layer)\.weight)"  # PEFT saves the head's own weight beside its LoRA
)
_WRAPPERS = re.compile(r"(?<![^.])(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_PEFT_PREFIX = re.compile(r"base_model\.(?:model\.)?")
_OUTER = re.compile(r"(?:(?:model|language_model|text_model)\.)*")  # a text model, alone or within a larger one
TENSOR_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F64": torch.float64}


@dataclass
class ModulePlan:
    """Where one linear's tensors are. `path` is the module's name as the adapter has it."""

    path: str
    target: AdapterTarget
    keys: dict[str, str] = field(default_factory=dict)  # A, B, MAGNITUDE, BASE_COPY -> key in the file
    rank: int = 0
    scale: float = 0.0


def plan_tensors(
    file: OpenTensorFile,
    settings: LoraSettings,
    targets: Mapping[str, AdapterTarget],
    *,
    vocab_size: int,
    max_rank: int,
    name: str,
) -> dict[str, ModulePlan]:
    """By path in the model, every linear that the adapter changes.

    Raises:
        AdapterError: a tensor has no place in the model, does not fit, is missing, or one too many.
    """
    plans = _assign(file, settings, targets, vocab_size, name)
    try:
        expected = _expected(plans, settings, targets, vocab_size)
        for plan in plans.values():
            plan.rank, plan.scale = settings.choice.rank_of(plan.path), settings.scale_of(plan.path)
            if plan.rank > max_rank:
                folder = file.path.parent
                raise AdapterError(
                    f"{folder}: rank {plan.rank} is over max_lora_rank = {max_rank}; raise max_lora_rank"
                )
    except PatternError as error:
        raise AdapterError(f"{file.path.parent}: {error}") from None
    if surplus := sorted(plans.keys() - expected):
        raise AdapterError(f"{file.path}: tensors for {surplus[0]!r}, which target_modules does not name")
    needed = (A, B, MAGNITUDE) if settings.dora else (A, B)
    for path in sorted(expected):
        if missing := [side for side in needed if path not in plans or side not in plans[path].keys]:
            raise AdapterError(
                f"{file.path}: {path} lacks {' and '.join(missing)}; the adapter is incomplete, or its configuration "
                "lacks layers_to_transform"
            )
        for side, key in plans[path].keys.items():
            _check_tensor(file, key, _wanted_shape(plans[path], side), name)
        if settings.init and is_head(targets[path], vocab_size):
            raise AdapterError(
                f"{file.path}: {settings.init} took a part out of {path} and of the embeddings that may share its "
                "weight; save the adapter again with PEFT's path_initial_model_for_weight_conversion"
            )
    return plans


def _assign(
    file: OpenTensorFile, settings: LoraSettings, targets: Mapping[str, AdapterTarget], vocab_size: int, name: str
) -> dict[str, ModulePlan]:
    """Every tensor of the file to its module."""
    by_core = {_core(path): path for path in targets}
    plans: dict[str, ModulePlan] = {}
    for key in file.entries:
        match = _TENSOR.fullmatch(_WRAPPERS.sub("", key))
        if match is None or (match["magnitude"] and not settings.dora):
            raise AdapterError(
                f"{file.path}: tensor {short(key)} is not part of a LoRA of linear layers; {merge_hint(name)}"
            )
        module = _PEFT_PREFIX.sub("", match["module"], count=1) if key.startswith("base_model.") else match["module"]
        path = module if module in targets else by_core.get(_core(module))
        if path is None or (match["copy"] and not is_head(targets[path], vocab_size)):
            raise AdapterError(
                f"{file.path}: the model has no module {short(module)} that an adapter can change; choose the model it "
                f"was made for, or {merge_hint(name)}"
            )
        plan = plans.setdefault(path, ModulePlan(module, targets[path]))
        side = match["side"] or match["magnitude"] or match["copy"]
        if (first := plan.keys.setdefault(side, key)) != key:
            raise AdapterError(f"{file.path}: {short(first)} and {short(key)} are one tensor twice; remove one")
    return plans


def _expected(
    plans: Mapping[str, ModulePlan], settings: LoraSettings, targets: Mapping[str, AdapterTarget], vocab_size: int
) -> set[str]:
    """What PEFT would adapt. Modules that the file lacks are judged by the names it would have for them."""
    outer = {_outer(path): _outer(plan.path) for path, plan in plans.items()}
    names = {path: outer.get(_outer(path), _outer(path)) + _core(path) for path in targets}
    names |= {path: plan.path for path, plan in plans.items()}
    return {
        path
        for path, target in targets.items()
        if settings.choice.includes(names[path], is_head=is_head(target, vocab_size))
    }


def _outer(path: str) -> str:
    found = _OUTER.match(path)
    return found[0] if found else ""


def _core(path: str) -> str:
    return path[len(_outer(path)) :]


def is_head(target: AdapterTarget, vocab_size: int) -> bool:
    """Whether the linear makes the logits."""
    return _num_rows(target) == vocab_size


def _num_rows(target: AdapterTarget) -> int:
    return list(target.linear.parts.values())[target.part]


def _wanted_shape(plan: ModulePlan, side: str) -> tuple[int, ...]:
    rows, columns = _num_rows(plan.target), plan.target.linear.in_features
    return {A: (plan.rank, columns), B: (rows, plan.rank), MAGNITUDE: (rows,), BASE_COPY: (rows, columns)}[side]


def _check_tensor(file: OpenTensorFile, key: str, wanted: tuple[int, ...], name: str) -> None:
    entry = file.entries[key]
    if entry.dtype not in TENSOR_DTYPES:
        raise AdapterError(f"{file.path}: {key} has type {short(entry.dtype)}; use F32, F16 or BF16")
    if entry.shape != wanted:
        raise AdapterError(
            f"{file.path}: {key} has shape {short(list(entry.shape))}, this model needs {list(wanted)}; was it made "
            f"for it, with this r? If it resized the vocabulary, {merge_hint(name)}"
        )
