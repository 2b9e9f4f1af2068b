"""What a model costs in bytes, from its configuration and the shapes of its tensors. Plain arithmetic without torch:
the library estimates with it before anything runs, and the loader checks with it before anything is read.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mp13.engine.models.model_files import is_of_text
from mp13.engine.quantization import DEFAULT_GROUP_SIZE, STORED_METHOD, UNPACKED, Quantization, parse_quantization
from mp13.errors import ModelError

Shapes = Mapping[str, tuple[int, ...]]  # of a checkpoint's tensors, by name

SLACK = 0.02  # of a GPU's share: torch's allocator gives out whole segments, and keeps some of them in pieces
_PLAUSIBLE_RANK = 16  # of an adapter that nobody has seen yet; room is kept for `max_loras` of them
MAX_LOGITS = 2**25  # numbers, made at once by a step that judges a text
_BYTES_PER_LOGIT = 12  # beside the logits themselves: float32, their log-softmax, and what is compared
_STORED_BYTES = {8: 1.0, 4: 0.5, 3: 0.4, 2: 0.25}  # of one number by its bits; ten of 3 bits share an int32
_GROUP_BYTES = 4  # a group's scale and zero point, 16 bits each
_OTHER_NAMES = {
    "num_hidden_layers": ("n_layer", "num_layers"),
    "num_attention_heads": ("n_head", "num_heads"),
    "hidden_size": ("n_embd", "d_model"),
    "intermediate_size": ("n_inner", "ffn_dim"),
    "max_position_embeddings": ("n_positions", "n_ctx"),
}  # older families' words for the same


@dataclass(frozen=True)
class WeightFormat:
    """How weights are kept: numbers of `itemsize` bytes, or in linears of `bits`, scaled by groups of `group_size`."""

    itemsize: int
    bits: int | None = None
    head: int | None = None  # bits of the output head
    embeddings: int | None = None
    group_size: int = DEFAULT_GROUP_SIZE
    axis: int = 1

    def stored_bytes(self, numbers: int, bits: int | None) -> int:
        """Of `numbers` weights, quantized to `bits` or not at all."""
        if bits is None:
            return numbers * self.itemsize
        return math.ceil(numbers * (_STORED_BYTES[bits] + _GROUP_BYTES / self.group_size))


def weight_format(quantization: str, itemsize: int) -> WeightFormat:
    """How a model is kept that is loaded under the setting `quantization`, its other numbers in `itemsize` bytes.

    Raises:
        ConfigError: there is no such quantization.
    """
    if (q := parse_quantization(quantization)) is None:
        return WeightFormat(itemsize)
    return WeightFormat(itemsize, q.bits, q.head, q.embeddings, q.group_size or DEFAULT_GROUP_SIZE, q.axis)


def saved_quantization(config: Mapping[str, Any]) -> str | None:
    """How the weights of a model lie quantized on disk already: ours as the setting would say it, else the method's
    name. None where they don't, or in 8-bit floating point, which is dequantized as it is read."""
    stored = _stored(config)
    method = stored.get("quant_method", "another method") if stored else None
    if method == STORED_METHOD:
        return str(parse_quantization(stored.get("weights")))
    return None if method in (None, "fp8") else str(getattr(method, "value", method))


def _stored(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part of config.json that says how the weights are quantized; empty where they aren't."""
    for table in (config, _text(config)):
        if isinstance(stored := table.get("quantization_config"), Mapping):
            return stored
    return {}


def _text(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part of config.json that speaks of text, where the model can do more than that."""
    text = config.get("text_config")
    return text if isinstance(text, Mapping) else config


@dataclass(frozen=True)
class ModelShape:
    """Sizes are numbers, not bytes. `linears` are (out_features, in_features) of those in the layers."""

    num_layers: int
    num_kv_heads: int
    head_dim: int
    hidden_size: int
    intermediate_size: int
    vocab_size: int
    max_position: int
    linears: tuple[tuple[int, int], ...]
    embedding: int
    head: int  # 0 where the embedding is the head, too
    other: int  # norms, biases, experts: never quantized
    packed_bytes: int | None = None  # of all weights, where another method packed them

    @property
    def largest_linear(self) -> int:
        """Of those as the decoder packs them: gate and up are one."""
        return max(2 * self.intermediate_size * self.hidden_size, max((o * i for o, i in self.linears), default=0))

    def _unpacked(self, form: WeightFormat) -> int:
        """The most numbers of few bits that are dequantized at one time: a piece, but a whole matrix with axis 0."""
        if form.bits is None:
            return 0
        head = self.vocab_size * self.hidden_size if form.head or (form.embeddings and not self.head) else 0
        largest = max(self.largest_linear, head)
        return largest if form.axis == 0 else min(largest, UNPACKED)

    def weight_bytes(self, form: WeightFormat) -> int:
        """Packed by another method, they are as large as their files, whatever `form` says."""
        if self.packed_bytes is not None:
            return self.packed_bytes
        linears = form.stored_bytes(sum(out * width for out, width in self.linears), form.bits)
        own_head = self.head or (self.embedding if form.head else 0)  # one with bits of its own is no longer shared
        ends = form.stored_bytes(self.embedding, form.embeddings) + form.stored_bytes(own_head, form.head)
        return linears + ends + self.other * form.itemsize

    def packed_head_bytes(self, form: WeightFormat) -> int:
        """What the CPU takes beside `weight_bytes` for a copy of an embedding that is the head, too: in 16 bits it is
        packed for products."""
        shared = not self.head and form.head is None and self.packed_bytes is None
        return self.embedding * form.itemsize if shared and form.itemsize == 2 else 0

    def adapter_bytes(self, max_loras: int, max_rank: int, itemsize: int) -> int:
        """What is kept for adapters."""
        head = [(self.vocab_size, self.hidden_size)]
        return kept_for_adapters(self.linears, head, max_loras, max_rank, itemsize)

    def token_bytes(self, itemsize: int) -> int:
        """What one token leaves in the KV cache, over all layers."""
        return 2 * self.num_layers * self.num_kv_heads * self.head_dim * itemsize

    def activation_bytes(self, num_tokens: int, itemsize: int, form: WeightFormat) -> int:
        """The most that a step of `num_tokens` holds at once beside weights and cache: in the MLP the residual stream,
        what goes in and what comes out, gate, up and their product; or, at the head, the logits of a text that is
        judged. Attention is taken to work in place, as its paged kernels do."""
        unpacked = self._unpacked(form) * itemsize
        mlp = num_tokens * (4 * self.hidden_size + 3 * self.intermediate_size) * itemsize + unpacked
        rows = min(num_tokens, max(1, MAX_LOGITS // self.vocab_size))
        judged = rows * self.vocab_size * (itemsize + _BYTES_PER_LOGIT)
        return max(mlp, judged)


def kept_for_adapters(
    layers: Sequence[tuple[int, int]], head: Sequence[tuple[int, int]], max_loras: int, max_rank: int, itemsize: int
) -> int:
    """Bytes for `max_loras` adapters on every linear of the layers, of rank 16 or `max_rank` where that is less; and in
    any case for one DoRA of `max_rank` on those and the head. Linears are (out_features, in_features)."""
    usual = max_loras * min(_PLAUSIBLE_RANK, max_rank) * sum(out + width for out, width in layers)
    largest = sum(max_rank * (out + width) + out for out, width in (*layers, *head))
    return max(usual, largest) * itemsize if max_loras else 0


def model_shape(config: Mapping[str, Any], tensors: Shapes | None = None, file_bytes: int = 0) -> ModelShape:
    """The shape of the model with this config.json, whose weights are `tensors` in files of `file_bytes`.

    A Llama layout stands in for tensors that are not given, or whose shapes another method's packing hides.

    Raises:
        ModelError: the configuration does not say how large the model is.
    """
    saved, stored, config = saved_quantization(config), _stored(config), _text(config)
    is_packed = saved is not None and stored.get("quant_method") != STORED_METHOD
    if is_packed and tensors is None:
        raise ModelError(f"config.json does not say how large weights packed by {saved} are; fetch them, they do")
    if is_packed:
        tensors = {name: shape for name, shape in _layout(config).items() if not (_experts(config) and ".mlp." in name)}
    elif tensors is None:
        tensors = llama_tensors(config)
    elif saved is not None:
        tensors = _in_full(tensors, parse_quantization(saved))
    hidden, heads = _number(config, "hidden_size"), _number(config, "num_attention_heads")
    vocab_size = _number(config, "vocab_size")
    kinds: dict[str, list[tuple[int, ...]]] = {"linear": [], "embedding": [], "head": [], "other": [], "unread": []}
    for name, shape in tensors.items():
        kinds[_kind(name, shape, vocab_size)].append(shape)
    if config.get("tie_word_embeddings", False) and kinds["embedding"]:
        kinds["head"] = []
    return ModelShape(
        num_layers=_number(config, "num_hidden_layers"),
        num_kv_heads=_number(config, "num_key_value_heads", heads),
        head_dim=_number(config, "head_dim", hidden // heads),
        hidden_size=hidden,
        intermediate_size=_number(config, "intermediate_size", 4 * hidden),
        vocab_size=vocab_size,
        max_position=_number(config, "max_position_embeddings", 2048),
        linears=tuple((shape[0], shape[1]) for shape in kinds["linear"]),
        embedding=sum(map(math.prod, kinds["embedding"])),
        head=sum(map(math.prod, kinds["head"])),
        other=sum(map(math.prod, kinds["other"])),
        packed_bytes=file_bytes if is_packed else None,
    )


def _in_full(tensors: Shapes, quantization: Quantization | None) -> Shapes:
    """What the tensors of a model that we saved quantized were before: a scale's shape tells its matrix's."""
    group_size = (quantization and quantization.group_size) or DEFAULT_GROUP_SIZE
    packed = [name.removesuffix("_packed") for name in tensors if name.endswith(".weight_packed")]
    parts = {f"{name}_{part}" for name in packed for part in ("packed", "scale", "zero")}
    full = {name: shape for name, shape in tensors.items() if name not in parts}
    for name in packed:
        if len(scale := tensors.get(f"{name}_scale", ())) == 2:  # the loader says what is missing
            full[name] = (scale[0], scale[1] * group_size)
    return full


def _kind(name: str, shape: tuple[int, ...], vocab_size: int) -> str:
    if not is_of_text(name):
        return "unread"
    if len(shape) != 2 or "experts" in name.split(".") or not name.endswith(".weight"):
        return "other"
    if abs(shape[0] - vocab_size) <= 1024 and not name.startswith(("model.layers.", "transformer.h.")):
        return "head" if name.rpartition(".")[0].endswith(("lm_head", "embed_out")) else "embedding"
    return "linear" if ".layers." in name or ".h." in name else "other"


def _number(config: Mapping[str, Any], name: str, default: int | None = None) -> int:
    for known in (name, *_OTHER_NAMES.get(name, ())):
        value = config.get(known)
        if isinstance(value, int) and value > 0:
            return value
    if default is None:
        raise ModelError(f"config.json does not say its {name}, so its size is not known; choose another model")
    return default


def llama_tensors(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """The tensors of a Llama layout by name, head included. Raises ModelError as `model_shape` does."""
    if _experts(config):
        raise ModelError("config.json does not say how large the experts are; fetch the weights, which do")
    return _layout(config)


def _experts(config: Mapping[str, Any]) -> bool:
    return any(config.get(name) for name in ("num_experts", "num_local_experts", "n_routed_experts"))


def _layout(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    hidden, heads = _number(config, "hidden_size"), _number(config, "num_attention_heads")
    head_dim, inner = _number(config, "head_dim", hidden // heads), _number(config, "intermediate_size", 4 * hidden)
    kv_heads, vocab = _number(config, "num_key_value_heads", heads), _number(config, "vocab_size")
    layer: dict[str, tuple[int, ...]] = {
        "self_attn.q_proj": (heads * head_dim, hidden), "self_attn.k_proj": (kv_heads * head_dim, hidden),
        "self_attn.v_proj": (kv_heads * head_dim, hidden), "self_attn.o_proj": (hidden, heads * head_dim),
        "mlp.gate_proj": (inner, hidden), "mlp.up_proj": (inner, hidden), "mlp.down_proj": (hidden, inner),
        "input_layernorm": (hidden,), "post_attention_layernorm": (hidden,),
    }  # fmt: skip
    names = {f"model.layers.{i}.{name}.weight": shape for i in range(_number(config, "num_hidden_layers"))
             for name, shape in layer.items()}  # fmt: skip
    ends = {"model.embed_tokens.weight": (vocab, hidden), "model.norm.weight": (hidden,)}
    return {**names, **ends, "lm_head.weight": (vocab, hidden)}
