"""Which of a model's tensors are matrices that may be quantized, what that asks of their shapes, and what is asked for.

All of this is known before any weight is read.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from mp13.engine.linear.quantized_choice import Shape, kernel_note, require_kernel
from mp13.engine.linear.quantized_tensor import require_hqq
from mp13.engine.models.decoder_config import DecoderConfig, packed_by
from mp13.engine.quantization import STORED_METHOD, Quantization, parse_quantization, stored_table
from mp13.errors import ConfigError

EMBEDDING_AXIS = 1  # rows are looked up, so groups lie within them


@dataclass(frozen=True)
class QuantizedMatrix:
    shape: Shape
    bits: int
    axis: int


@dataclass(frozen=True)
class ModelLayout:
    """Modules by name, as in the checkpoint without ".weight"; shapes are (out_features, in_features)."""

    linears: Mapping[str, Shape]
    embedding: str
    head: str | None
    vocabulary: Shape  # of the embedding, and of the head
    is_tied: bool  # the head's weight is the embedding's

    def quantized(self, quantization: Quantization) -> dict[str, "QuantizedMatrix"]:
        """All that `quantization` quantizes, each matrix once: a tied head may be the embedding's very own."""
        q = quantization
        found = {name: QuantizedMatrix(shape, q.bits, q.axis) for name, shape in self.linears.items()}
        if q.embeddings is not None:
            found[self.embedding] = QuantizedMatrix(self.vocabulary, q.embeddings, EMBEDDING_AXIS)
        bits = self.head_bits(q)
        if self.head is not None and bits is not None and not self.shares_table(q):
            found[self.head] = QuantizedMatrix(self.vocabulary, bits, q.axis)
        return found

    def head_bits(self, quantization: Quantization) -> int | None:
        """A tied head follows the embeddings unless it is given bits of its own; those make it a copy of its own."""
        return quantization.head or (quantization.embeddings if self.is_tied else None)

    def shares_table(self, quantization: Quantization) -> bool:
        """Whether a tied head is quantized just as the embeddings are, and so needs no copy."""
        q = quantization
        same = q.axis == EMBEDDING_AXIS and q.head in (None, q.embeddings)
        return self.is_tied and q.embeddings is not None and same


def decoder_layout(config: DecoderConfig) -> ModelLayout:
    """Of the native decoder."""
    hidden, inner = config.hidden_size, config.intermediate_size
    queries, keys = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    layer: dict[str, Shape] = {
        "self_attn.q_proj": (queries, hidden), "self_attn.k_proj": (keys, hidden), "self_attn.v_proj": (keys, hidden),
        "self_attn.o_proj": (hidden, queries), "mlp.gate_proj": (inner, hidden), "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }  # fmt: skip
    return ModelLayout(
        {f"model.layers.{i}.{name}": shape for i in range(config.num_layers) for name, shape in layer.items()},
        embedding="model.embed_tokens",
        head="lm_head",
        vocabulary=(config.vocab_size, hidden),
        is_tied=config.tie_embeddings,
    )


@dataclass(frozen=True)
class ChosenQuantization:
    """`is_stored`: the checkpoint has quantized weights already. Once fitted, `matrices` are what is quantized, and
    `note` says for a person what was chosen."""

    quantization: Quantization
    is_stored: bool = False
    matrices: Mapping[str, QuantizedMatrix] = field(default_factory=dict)
    note: str = ""

    def fitted(self, layout: ModelLayout, dtype: torch.dtype, device: torch.device) -> "ChosenQuantization":
        """This with its group size, once it is certain that all of the model can be quantized so.

        Raises:
            ConfigError: the group size or the demanded kernel does not fit a layer. UnsupportedError: hqq is missing.
        """
        require_hqq()
        matrices = layout.quantized(self.quantization)
        quantization = self.quantization.fitted({name: matrix.shape[1] for name, matrix in matrices.items()})
        require_kernel(quantization, layout.linears, dtype, device)
        note = kernel_note(quantization, layout.linears, dtype, device)
        return replace(self, quantization=quantization, matrices=layout.quantized(quantization), note=note)


def choose_quantization(requested: Any, hf_config: Any) -> ChosenQuantization | None:
    """What the setting `requested` and the configuration of the model together mean; None is no quantization of ours.

    Raises:
        ConfigError: the model is quantized already, in another way than the setting asks.
    """
    asked, method = parse_quantization(requested), packed_by(hf_config)
    if method in (None, "fp8"):  # fp8 is dequantized as it is read
        return None if asked is None else ChosenQuantization(asked)
    if method != STORED_METHOD:
        if asked is not None:
            raise ConfigError(
                f"quantization = {str(asked)!r} cannot be used: the model is already quantized by {str(method)!r}; "
                "give 'none', or a model in full"
            )
        return None
    own = parse_quantization(hf_config.quantization_config.get("weights"))
    if own is None or own.group_size is None:
        raise ConfigError("the model's config.json does not say how it is quantized; quantize it again")
    if asked is not None and replace(asked, kernel="auto", group_size=asked.group_size or own.group_size) != own:
        raise ConfigError(
            f"quantization = {str(asked)!r} cannot be used: the model was saved as {str(own.of_weights)!r}; give "
            "'none' to use it so, or a model in full"
        )
    return ChosenQuantization(replace(own, kernel=asked.kernel if asked else "auto"), is_stored=True)


def stored_config(quantization: Quantization) -> dict[str, Any]:
    """What config.json says of a model saved with this quantization, for `choose_quantization`."""
    return {"quant_method": STORED_METHOD, "weights": stored_table(quantization)}
