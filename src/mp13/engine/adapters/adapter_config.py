"""Reads PEFT's adapter_config.json and refuses, by name, whatever would change the result and is not implemented."""

import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mp13.errors import AdapterError

CONFIG_FILE = "adapter_config.json"
_MAX_CONFIG_BYTES = 1 << 20
_MAX_RANK = 1 << 20  # of any adapter; what this engine takes is max_lora_rank

# Fields of PEFT's LoraConfig that do not change what a finished adapter computes.
_HARMLESS = {
    "peft_type", "auto_mapping", "base_model_name_or_path", "revision", "inference_mode", "task_type", "lora_dropout",
    "peft_version", "runtime_config", "ephemeral_gpu_offload", "loftq_config", "eva_config", "corda_config",
    "megatron_core", "qalora_group_size", "base_model_class", "parent_library", "ensure_weight_tying",
}  # fmt: skip
_HANDLED = {"r", "lora_alpha", "use_rslora", "target_modules", "bias", "init_lora_weights"}
_PLAIN_INITS = (None, True, False, "gaussian", "orthogonal", "eva")


@dataclass(frozen=True)
class LoraSettings:
    """What a LoRA adapter's configuration says. `scale` multiplies B A: alpha / r, or alpha / √r (rsLoRA)."""

    rank: int
    scale: float
    kind: str
    target_modules: tuple[str, ...] | str  # names that end a module's path; or a regular expression
    base_model: str | None


def read_lora_settings(folder: Path) -> tuple[LoraSettings, bytes]:
    """The settings in `folder`, and the bytes they were read from.

    Raises:
        AdapterError: the file is missing, malformed, or asks for something this engine does not compute.
    """
    path = folder / CONFIG_FILE
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_CONFIG_BYTES + 1)
        if len(content) > _MAX_CONFIG_BYTES:
            raise AdapterError(f"{path} is larger than 1 MiB, which no adapter configuration is")
        config = json.loads(content)
    except OSError as error:
        reason = error.strerror or error
        raise AdapterError(f"{path} cannot be read ({reason}); an adapter is a folder that PEFT saved") from None
    except (ValueError, RecursionError) as error:
        raise AdapterError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(config, dict):
        raise AdapterError(f"{path} holds {type(config).__name__}, not an object; save the adapter again with PEFT")
    _refuse_unsupported(path, config)
    return _settings(path, config), content


def _refuse_unsupported(path: Path, config: dict[str, Any]) -> None:
    if (kind := config.get("peft_type")) != "LORA":
        raise AdapterError(f"{path}: adapters of type {short(kind)} cannot run here; only LORA can")
    if (bias := config.get("bias", "none")) != "none":
        raise AdapterError(f"{path}: bias = {short(bias)} changes the model's biases; only 'none' is supported")
    if (init := config.get("init_lora_weights")) not in _PLAIN_INITS:
        raise AdapterError(
            f"{path}: init_lora_weights = {short(init)} changes the base weights, which is not supported yet"
        )
    for field, value in config.items():
        if field not in _HARMLESS | _HANDLED and value:
            raise AdapterError(f"{path}: {field:.80} = {short(value)} is not supported")


def _settings(path: Path, config: dict[str, Any]) -> LoraSettings:
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if not isinstance(rank, int) or isinstance(rank, bool) or not 1 <= rank <= _MAX_RANK:
        raise AdapterError(f"{path}: r = {short(rank)} is not a rank; it must be 1 or more")
    if not isinstance(alpha, int | float) or isinstance(alpha, bool) or not abs(alpha) <= sys.float_info.max:
        raise AdapterError(f"{path}: lora_alpha = {short(alpha)} is not a finite number")
    targets = config.get("target_modules")
    if isinstance(targets, list) and targets and all(isinstance(t, str) for t in targets):
        targets = tuple(sorted(targets))
    elif not (isinstance(targets, str) and targets):
        raise AdapterError(f"{path}: target_modules = {short(targets)} names no module")
    rslora = config.get("use_rslora") or False
    if rslora not in (True, False):
        raise AdapterError(f"{path}: use_rslora = {short(rslora)} is neither true nor false")
    base = config.get("base_model_name_or_path")
    return LoraSettings(
        rank=rank,
        scale=alpha / math.sqrt(rank) if rslora else alpha / rank,
        kind="rslora" if rslora else "lora",
        target_modules=targets,
        base_model=base if isinstance(base, str) else None,
    )


def short(value: object) -> str:
    """`value` as an error quotes it: a file may hold anything, of any length."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
