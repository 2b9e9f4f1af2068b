"""A PEFT folder becomes linear changes, or is refused with its reason before the model is touched.

Configuration, tokenizer files and the weights' header are checked against the model first; only then are the tensors
read, once, hashed and parsed from one buffer.
"""

import hashlib
import math
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mp13.engine.adapters.adapter_config import LoraSettings, merge_hint, read_lora_settings
from mp13.engine.adapters.adapter_text import AdapterText, read_adapter_text
from mp13.engine.adapters.deltas import linear_delta
from mp13.engine.adapters.tensor_file import OpenTensorFile, open_tensor_file
from mp13.engine.adapters.tensor_plan import BASE_COPY, MAGNITUDE, TENSOR_DTYPES, A, B, ModulePlan, plan_tensors
from mp13.engine.linear.delta import LinearDelta
from mp13.engine.linear.quantized_weight import QuantizedWeight
from mp13.engine.models.interface import AdapterTarget
from mp13.engine.request import AdapterInfo
from mp13.errors import AdapterError


@dataclass(frozen=True)
class LoadedAdapter:
    """`deltas` maps a module's path in the model to its change, on the CPU. `invocation_tokens` switch an activated
    LoRA on. `text` is what the adapter brings beside weights."""

    info: AdapterInfo
    deltas: dict[str, LinearDelta]
    invocation_tokens: tuple[int, ...] | None = None
    text: AdapterText | None = None


def load_adapter_file(
    folder: Path,
    name: str,
    targets: Mapping[str, AdapterTarget],
    *,
    max_rank: int,
    dtype: torch.dtype,
    model: str,
    vocab_size: int,
    tokenizer: Any,
) -> LoadedAdapter:
    """Read the adapter in `folder` for a model with these `targets` and this `tokenizer`.

    Raises:
        AdapterError: the folder does not hold an adapter that this model can run; says why.
    """
    try:
        if not folder.is_dir():
            raise AdapterError(f"{str(folder)!r} is not a folder; an adapter is a folder that PEFT saved")
        settings, config_bytes = read_lora_settings(folder, name)
        _check_invocation(folder, settings, vocab_size)
        with open_tensor_file(folder) as file:
            plans = plan_tensors(file, settings, targets, vocab_size=vocab_size, max_rank=max_rank, name=name)
            text = read_adapter_text(folder, tokenizer, vocab_size, name)
            content = file.read()
    except OSError as error:
        raise AdapterError(f"{folder} cannot be read ({error.strerror or error}); check its permissions") from None
    with ThreadPoolExecutor(1) as other_core:
        digest = other_core.submit(_digest, config_bytes, content)
        deltas = _deltas(file, content, plans, settings, dtype, name)
    info = AdapterInfo(
        name=name,
        digest=digest.result(),
        kind=settings.kind,
        rank=max(plan.rank for plan in plans.values()),
        target_modules=tuple(sorted({path.rpartition(".")[2] for path in plans})),
        size_bytes=len(content),
        warnings=_warnings(settings, model),
        path=str(folder),
        base_model=settings.base_model,
        brings=text.brings if text else (),
    )
    return LoadedAdapter(info, deltas, settings.invocation, text)


def _check_invocation(folder: Path, settings: LoraSettings, vocab_size: int) -> None:
    if too_large := [token for token in settings.invocation or () if token >= vocab_size]:
        raise AdapterError(
            f"{folder}: its invocation token {too_large[0]} is not in the vocabulary of {vocab_size} tokens; choose "
            "the model it was made for"
        )


def _deltas(
    file: OpenTensorFile,
    content: bytearray,
    plans: Mapping[str, ModulePlan],
    settings: LoraSettings,
    dtype: torch.dtype,
    name: str,
) -> dict[str, LinearDelta]:
    if len(content) < file.size:
        raise AdapterError(f"{file.path} is damaged: {len(content)} bytes where there were {file.size}; copy it again")
    deltas = {}
    for path, plan in sorted(plans.items()):
        where = f"{file.path.parent}: {path}"
        found = {side: _tensor(file, content, key).float() for side, key in plan.keys.items()}
        if BASE_COPY in found and not _is_base(found[BASE_COPY], plan):
            raise AdapterError(f"{where} is there as a whole, and differs from this model's; {merge_hint(name)}")
        if settings.init is not None:
            _check_finite(found.values(), where)
        delta = linear_delta(found[A], found[B], found.get(MAGNITUDE), plan, settings)
        gain = None if delta.gain is None else delta.gain.to(dtype)
        a = delta.a.to(dtype, copy=True)  # what stays must not hold the whole file
        deltas[path] = LinearDelta(a, delta.b.to(dtype), gain)
        _check_finite([deltas[path].a, deltas[path].b, *([] if gain is None else [gain])], where)
    return deltas


def _tensor(file: OpenTensorFile, content: bytearray, key: str) -> torch.Tensor:
    """The tensor in place in `content`; its type and bounds were checked with the header."""
    entry = file.entries[key]
    count, start = math.prod(entry.shape), file.data_start + entry.start
    return torch.frombuffer(content, dtype=TENSOR_DTYPES[entry.dtype], count=count, offset=start).view(entry.shape)


def _check_finite(tensors: Iterable[torch.Tensor], where: str) -> None:
    for tensor in tensors:
        if not math.isfinite(tensor.sum()) and not tensor.isfinite().all():  # a sum is quick, and hides nothing
            dtype = str(tensor.dtype).removeprefix("torch.")
            raise AdapterError(f"{where} is NaN or infinite in {dtype}; did its training diverge?")


def _is_base(copy: torch.Tensor, plan: ModulePlan) -> bool:
    """Whether a copy of the base weight is the one here, up to the rounding of either to 16 bits, or of this to fewer.

    The root mean square of what quantization changes is step / √12, a step being the range of a group / 2^bits. The
    bound takes ranges of up to 27 standard deviations; at 2 bits it still tells weights that have nothing in common.
    """
    base, weight = plan.target.linear.base, plan.target.linear.part_weight(plan.target.part).to(copy.device)
    if isinstance(base, QuantizedWeight):
        bound = min(1.0, 8 / 2**base.bits)
        return bool(torch.linalg.vector_norm(copy - weight) < bound * torch.linalg.vector_norm(weight))
    return torch.allclose(copy, weight, rtol=2**-8, atol=2**-24)


def _digest(*contents: bytes | bytearray) -> str:
    digest = hashlib.sha256()
    for content in contents:
        digest.update(len(content).to_bytes(8, "little"))
        digest.update(content)
    return digest.hexdigest()


def _warnings(settings: LoraSettings, model: str) -> tuple[str, ...]:
    recorded = (settings.base_model or "").rstrip("/\\").replace("\\", "/").rpartition("/")[2]
    if recorded and recorded.lower() != Path(model).name.lower():
        return (f"made for {recorded!r}, used on {Path(model).name!r}",)
    return ()
