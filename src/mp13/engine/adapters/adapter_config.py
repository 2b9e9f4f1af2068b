"""Reads PEFT's adapter_config.json and refuses, by name, whatever would change the result and is not computed here.

Knows no tensors and no model. What cannot run as an adapter can often be merged into a model; the refusal says so.
"""

import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mp13.engine.adapters.module_choice import (
    Clock,
    ModuleChoice,
    Names,
    Pattern,
    PatternError,
    at_layer,
    ending,
)
from mp13.errors import AdapterError

CONFIG_FILE = "adapter_config.json"
_MAX_CONFIG_BYTES = 1 << 20
_MAX_RANK = 1 << 20  # of any adapter; what this engine takes is max_lora_rank
_MAX_INVOCATION = 1024

# Fields of PEFT's LoraConfig that do not change what a finished adapter computes in a linear layer.
_HARMLESS = {
    "peft_type", "auto_mapping", "base_model_name_or_path", "revision", "inference_mode", "task_type", "lora_dropout",
    "peft_version", "runtime_config", "ephemeral_gpu_offload", "loftq_config", "eva_config", "corda_config",
    "lora_ga_config", "velora_config", "megatron_core", "qalora_group_size", "base_model_class", "parent_library",
    "ensure_weight_tying", "fan_in_fan_out", "merge_weights",
}  # fmt: skip
# What converters from MLX leave beside PEFT's own fields.
_FOREIGN = {"fine_tune_type", "lora_parameters", "num_layers"}
_HANDLED = {
    "r", "lora_alpha", "use_rslora", "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern",
    "rank_pattern", "alpha_pattern", "use_dora", "alora_invocation_tokens", "init_lora_weights", "bias",
}  # fmt: skip
# Fields of LoraConfig that would need more than a change of linear layers.
_NOT_COMPUTED = {
    "modules_to_save", "trainable_token_indices", "layer_replication", "megatron_config", "lora_bias", "use_qalora",
    "target_parameters", "use_bdlora", "arrow_config", "kasa_config", "monteclora_config", "enable_lora",
}  # fmt: skip
_PLAIN_INITS = (None, True, False, "gaussian", "orthogonal", "eva", "mica")
_MERGEABLE = {
    "ADALORA", "IA3", "LOHA", "LOKR", "VERA", "OFT", "BOFT", "FOURIERFT", "HRA", "VBLORA", "BONE", "MISS", "RANDLORA",
    "SHIRA", "C3A", "LN_TUNING", "TRAINABLE_TOKENS", "WAVEFT", "ROAD", "DELORA", "OSF",
}  # fmt: skip


@dataclass(frozen=True)
class LoraSettings:
    """What a LoRA adapter's configuration says.

    `init` names a start of the training that took a part out of the base weights, where the file does not make up for
    it. `invocation` are the tokens that switch an activated LoRA on.
    """

    choice: ModuleChoice
    rslora: bool
    dora: bool
    init: Literal["pissa", "olora"] | None
    invocation: tuple[int, ...] | None
    base_model: str | None

    @property
    def kind(self) -> str:
        if self.invocation:
            return "alora"
        return "dora" if self.dora else "rslora" if self.rslora else "lora"

    def scale_of(self, path: str) -> float:
        """What multiplies B A: alpha / r, or alpha / √r (rsLoRA, Kalajdzievski 2023)."""
        rank, alpha = self.choice.rank_of(path), self.choice.alpha_of(path)
        return alpha / math.sqrt(rank) if self.rslora else alpha / rank


def merge_hint(name: str) -> str:
    """The way out for adapters that can only be had as a model."""
    return f"`mp13 adapters merge {name} --model OUT` makes a model of it"


def read_lora_settings(folder: Path, name: str) -> tuple[LoraSettings, bytes]:
    """The settings in `folder`, and the bytes they were read from.

    Raises:
        AdapterError: the file is missing, malformed, or asks for something this engine does not compute.
    """
    path = folder / CONFIG_FILE
    try:
        content = read_small_file(path, _MAX_CONFIG_BYTES)
        config = json.loads(content)
    except OSError as error:
        reason = error.strerror or error
        raise AdapterError(f"{path} cannot be read ({reason}); an adapter is a folder that PEFT saved") from None
    except (ValueError, RecursionError) as error:
        raise AdapterError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(config, dict):
        raise AdapterError(f"{path} holds {type(config).__name__}, not an object; save the adapter again with PEFT")
    _refuse_unsupported(path, config, name)
    try:
        return _settings(path, config), content
    except PatternError as error:
        raise AdapterError(f"{path}: {error}") from None


def read_small_file(path: Path, max_bytes: int) -> bytes:
    """Raises OSError, also where `path` is no regular file, and AdapterError when it is larger than `max_bytes`."""
    if path.exists() and not path.is_file():  # a pipe would never end
        raise OSError(f"{path.name} is not a file")
    with path.open("rb") as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise AdapterError(f"{path} is larger than {max_bytes >> 10:,} KiB, which no such file is")
    return content


def _refuse_unsupported(path: Path, config: dict[str, Any], name: str) -> None:
    _check_type(path, config, name)
    if (bias := config.get("bias") or "none") != "none":
        raise AdapterError(f"{path}: bias = {short(bias)} changes the model's biases, not only its linears; "
                           f"{merge_hint(name)}")  # fmt: skip
    for field, value in config.items():
        if field in _NOT_COMPUTED and value:
            raise AdapterError(f"{path}: {field} = {short(value)} cannot run as an adapter; {merge_hint(name)}")
        if field not in _HARMLESS | _HANDLED | _FOREIGN and value:
            raise AdapterError(
                f"{path}: {short(field)} = {short(value)} is a setting unknown here; if it does not change what the "
                f"adapter computes, remove it from the file, else {merge_hint(name)}"
            )


def _check_type(path: Path, config: dict[str, Any], name: str) -> None:
    kind = config.get("peft_type")
    if kind == "LORA":
        return
    if kind is None and config.keys() & _FOREIGN:
        raise AdapterError(f"{path} is in MLX's own format; convert the adapter to PEFT's (adapter_model.safetensors)")
    if kind is None:
        raise AdapterError(f"{path} has no peft_type; an adapter is a folder that PEFT saved")
    way_out = merge_hint(name) if isinstance(kind, str) and kind in _MERGEABLE else "train it again as a LoRA"
    raise AdapterError(f"{path}: adapters of type {short(kind)} cannot run here, only LORA can; {way_out}")


def _settings(path: Path, config: dict[str, Any]) -> LoraSettings:
    dora, rslora = _flag(path, config, "use_dora"), _flag(path, config, "use_rslora")
    init, invocation = _init(path, config), _invocation(path, config)
    if invocation and (dora or init):
        other = "use_dora" if dora else f"init_lora_weights = {init!r}"
        raise AdapterError(f"{path}: alora_invocation_tokens together with {other} is nothing that PEFT computes")
    base = config.get("base_model_name_or_path")
    return LoraSettings(
        choice=_choice(path, config),
        rslora=rslora,
        dora=dora,
        init=init,
        invocation=invocation,
        base_model=base if isinstance(base, str) else None,
    )


def _choice(path: Path, config: dict[str, Any]) -> ModuleChoice:
    rank: Any = config.get("r")
    alpha: Any = config.get("lora_alpha")
    if not _is_rank(rank):
        raise AdapterError(f"{path}: r = {short(rank)} is not a rank; it must be 1 or more")
    if not _is_finite(alpha):
        raise AdapterError(f"{path}: lora_alpha = {short(alpha)} is not a finite number")
    targets, exclude = config.get("target_modules"), config.get("exclude_modules")
    everything = isinstance(targets, str) and targets.lower() == "all-linear"
    clock = Clock()
    names = _names(targets, clock)
    if not everything and not names:
        raise AdapterError(f"{path}: target_modules = {short(targets)} names no module")
    layers = config.get("layers_to_transform")
    layers = [layers] if _is_whole(layers) else layers or []
    if not (isinstance(layers, list) and all(_is_whole(layer) for layer in layers)):
        raise AdapterError(f"{path}: layers_to_transform = {short(layers)} are no layer numbers")
    if layers and not isinstance(names, tuple):
        raise AdapterError(f"{path}: layers_to_transform needs a list of target_modules, not a pattern; PEFT says so")
    return ModuleChoice(
        targets=None if everything else names,
        rank=rank,
        alpha=alpha,
        exclude=_optional_names(path, "exclude_modules", exclude, clock),
        layers=frozenset(layers) or None,
        layer_lists=tuple(at_layer(name, clock) for name in _strings(path, config, "layers_pattern")),
        rank_pattern=_patterns(_table(path, config, "rank_pattern", _is_rank), clock),
        alpha_pattern=_patterns(_table(path, config, "alpha_pattern", _is_finite), clock),
    )


def _names(value: Any, clock: Clock) -> Names | None:
    if isinstance(value, list) and value and all(isinstance(name, str) for name in value):
        return tuple(sorted(value))
    return Pattern(value, clock, whole=True) if isinstance(value, str) and value else None


def _optional_names(path: Path, field: str, value: Any, clock: Clock) -> Names:
    names = _names(value, clock) if value else ()
    if names is None:
        raise AdapterError(f"{path}: {field} = {short(value)} is neither a list of names nor a pattern")
    return names


def _strings(path: Path, config: dict[str, Any], field: str) -> list[str]:
    value = config.get(field) or []
    values = [value] if isinstance(value, str) else value
    if not (isinstance(values, list) and all(isinstance(item, str) for item in values)):
        raise AdapterError(f"{path}: {field} = {short(value)} is not a list of names")
    return values


def _table(path: Path, config: dict[str, Any], field: str, is_valid: Any) -> list[tuple[str, Any]]:
    table = config.get(field) or {}
    if not isinstance(table, dict):
        raise AdapterError(f"{path}: {field} = {short(table)} is not a table of patterns")
    for key, value in table.items():
        if not is_valid(value):
            raise AdapterError(f"{path}: {field} gives {short(key)} the value {short(value)}, which cannot be")
    return list(table.items())


def _patterns(table: list[tuple[str, Any]], clock: Clock) -> tuple[tuple[Pattern, Any], ...]:
    return tuple((ending(key, clock), value) for key, value in table)


def _flag(path: Path, config: dict[str, Any], field: str) -> bool:
    value = config.get(field) or False
    if value not in (True, False):
        raise AdapterError(f"{path}: {field} = {short(value)} is neither true nor false")
    return bool(value)


def _init(path: Path, config: dict[str, Any]) -> Literal["pissa", "olora"] | None:
    init = config.get("init_lora_weights")
    if init == "pissa" or init == "olora":
        return "pissa" if init == "pissa" else "olora"
    if init in _PLAIN_INITS:
        return None
    raise AdapterError(
        f"{path}: init_lora_weights = {short(init)} took a part out of the base weights that cannot be found again "
        "from them; save the adapter again with PEFT's path_initial_model_for_weight_conversion"
    )


def _invocation(path: Path, config: dict[str, Any]) -> tuple[int, ...] | None:
    tokens = config.get("alora_invocation_tokens") or []
    if not (isinstance(tokens, list) and len(tokens) <= _MAX_INVOCATION and all(_is_whole(t) for t in tokens)):
        raise AdapterError(f"{path}: alora_invocation_tokens = {short(tokens)} are no token ids")
    return tuple(tokens) or None


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_rank(value: Any) -> bool:
    return _is_whole(value) and 1 <= value <= _MAX_RANK


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def short(value: object, max_chars: int = 80) -> str:
    """`value` as an error quotes it: a file may hold anything, of any length."""
    text = repr(value)
    return text if len(text) <= max_chars else text[: max_chars - 3] + "..."
