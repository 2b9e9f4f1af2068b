"""Any causal language model of Transformers: its own modules, with our attention, cache and linears put in their place.

What each attention layer computes is asked by attention_probe; that the whole adds up is proven by self_check.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, PreTrainedModel

from mp13.engine.attention.paged import PagedAttention
from mp13.engine.attention.registry import PagedAttentionFunction
from mp13.engine.context import StepContext
from mp13.engine.linear.adapted_linear import AdaptedLinear
from mp13.engine.linear.base_weight import BaseWeight, base_weight
from mp13.engine.models.attention_probe import AttentionLayer, probe_attention, set_attention
from mp13.engine.models.bridged_loading import first_line, keeps_rows, read_quantized, read_whole
from mp13.engine.models.interface import AdapterTarget, CacheShape
from mp13.engine.models.model_layout import ChosenQuantization
from mp13.engine.models.progress import CHECKING
from mp13.engine.models.self_check import self_check
from mp13.engine.models.support import needs_softcap
from mp13.engine.request import OnProgress
from mp13.errors import ModelError, Mp13Error

_ATTENTION = "mp13"


def _attention_hook(
    module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: Any, **_: Any
) -> tuple[torch.Tensor, None]:
    """What every layer calls in place of Transformers' attention. The step's metadata comes from the context that
    `mp13_attention` holds, not from arguments, which some families drop on the way.

    query: (1, num_heads, T, head_dim); key, value: (1, num_kv_heads, T, head_dim) -> (1, T, num_heads, head_dim)
    """
    q, k, v = (states[0].transpose(0, 1) for states in (query, key, value))
    return module.mp13_attention(q, k, v)[None], None


# No mask function goes with it, so Transformers builds no mask.
AttentionInterface.register(_ATTENTION, _attention_hook)


class TransformersModel(nn.Module):
    """A `CausalModel`. `model` is a causal LM of Transformers in eval mode, which is changed in place.

    Args:
        linears: those of ours that are in it already, by name; None if none are.
        on_progress: hears when the model is there, and is checked.

    Raises:
        ModelError: the model does not run on our attention, cache and linears as it does on its own.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        attend: PagedAttentionFunction,
        context: StepContext,
        block_size: int = 16,
        linears: dict[str, AdaptedLinear] | None = None,
        on_progress: OnProgress = lambda stage, fraction: None,
    ) -> None:
        super().__init__()
        self.chosen: ChosenQuantization | None = None
        self.model = model
        self._keeps_rows = keeps_rows(model)
        try:
            layers = probe_attention(model)
            self.cache_shape = _cache_shape(layers, may_cap=needs_softcap(model.config))
            for layer in layers:
                layer.module.mp13_attention = PagedAttention(layer.layer_idx, layer.spec, attend, context)
            if linears is None:
                linears = _adapt_linears(model, context, head_of_rows=self._keeps_rows)
            set_attention(model, _ATTENTION)
            on_progress(CHECKING, None)
            whole = self_check(self, context, linears, block_size)
        except Exception as error:
            reason = str(error) if isinstance(error, Mp13Error) else first_line(error)
            kind = model.config.model_type
            raise ModelError(f"model type {kind!r} cannot run here: {reason}; choose another model") from error
        self.targets = {name: AdapterTarget(linear, 0) for name, linear in whole.items()}

    @classmethod
    def load(
        cls,
        folder: Path,
        config: Any,
        dtype: torch.dtype,
        device: torch.device,
        attend: PagedAttentionFunction,
        context: StepContext,
        block_size: int = 16,
        trust_remote_code: bool = False,
        *,
        chosen: ChosenQuantization | None = None,
        on_progress: OnProgress = lambda stage, fraction: None,
    ) -> "TransformersModel":
        """Read the model of Hugging Face configuration `config` from `folder`, in full or quantized as `chosen`.

        Raises:
            ModelError: the weights cannot be read or are incomplete, or the model cannot run here.
            ConfigError: it cannot be quantized so.
        """
        if chosen is None:
            whole = read_whole(folder, config, dtype, device, trust_remote_code, on_progress)
            return cls(whole, attend, context, block_size, on_progress=on_progress)
        model, linears, chosen = read_quantized(
            folder, config, dtype, device, context, chosen, on_progress, trust_remote_code
        )
        bridged = cls(model, attend, context, block_size, linears, on_progress)
        bridged.chosen = chosen
        return bridged

    def forward(self, input_ids: torch.Tensor, positions: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """input_ids, positions: (T,); rows: (R,), the tokens whose logits are wanted -> (R, vocab_size)"""
        keep = {"logits_to_keep": rows} if self._keeps_rows else {}
        output = self.model(input_ids=input_ids[None], position_ids=positions[None], use_cache=False, **keep)
        logits: torch.Tensor = output.logits[0]
        return logits if self._keeps_rows else logits[rows]

    @property
    def layers(self) -> list[nn.Module]:
        """The decoder's: of the lists in the model, the one each of whose modules holds one of our attentions.

        Raises:
            ModelError: there is none.
        """
        for modules in self.model.modules():
            if not isinstance(modules, nn.ModuleList) or len(modules) != self.cache_shape.num_layers:
                continue
            if all(sum(isinstance(part, PagedAttention) for part in layer.modules()) == 1 for layer in modules):
                return list(modules)
        raise ModelError(f"model type {self.model.config.model_type!r} has no list of layers that each attend once")

    @property
    def head_weight(self) -> BaseWeight | None:
        head = self.model.get_output_embeddings()
        return head.base if isinstance(head, AdaptedLinear) else None

    def hidden(self, input_ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """What the model without its head gives, (T, hidden_size)"""
        output = self.model.base_model(input_ids=input_ids[None], position_ids=positions[None], use_cache=False)
        self._output_type = type(output)
        hidden: torch.Tensor = output.last_hidden_state[0]
        return hidden

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """(R, hidden_size) -> (R, vocab_size), for hidden states that `hidden` gave. Families put scales and caps
        behind the head, each in code of its own: that code runs, upon a model without head that answers at once."""
        answer = self._output_type(last_hidden_state=hidden[None])
        nothing = torch.zeros(1, len(hidden), dtype=torch.int64, device=hidden.device)
        with _answering(self.model.base_model, answer):
            logits: torch.Tensor = self.model(input_ids=nothing, use_cache=False).logits[0]
        return logits


@contextmanager
def _answering(module: nn.Module, answer: Any) -> Iterator[None]:
    """Within, `module` gives `answer` to every call."""
    module.forward = lambda *_, **__: answer
    try:
        yield
    finally:
        del module.forward


def _cache_shape(layers: list[AttentionLayer], *, may_cap: bool) -> CacheShape:
    shapes = {(layer.num_kv_heads, layer.head_dim) for layer in layers}
    if len(shapes) > 1:
        raise ModelError(f"its layers differ in KV heads and head size ({sorted(shapes)}), and the cache has one shape")
    if not may_cap and any(layer.spec.softcap for layer in layers):
        raise ModelError("it caps its attention scores without saying so in its configuration")
    ((num_kv_heads, head_dim),) = shapes
    return CacheShape(len(layers), num_kv_heads, head_dim)


def _adapt_linears(model: PreTrainedModel, context: StepContext, *, head_of_rows: bool) -> dict[str, AdaptedLinear]:
    """Put our linear, sharing the weight, in place of every `nn.Linear`. Returns them by PEFT's name."""
    head = model.get_output_embeddings()
    plain = {name: m for name, m in model.named_modules() if type(m) is nn.Linear}
    linears: dict[str, AdaptedLinear] = {}
    for name, linear in plain.items():
        bias = None if linear.bias is None else linear.bias.data
        of_rows = linear is head and head_of_rows
        base = base_weight(linear.weight.data, bias)
        linears[name] = AdaptedLinear(base, context, {name: linear.out_features}, of_rows=of_rows)
        parent, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(parent), attribute, linears[name])
    return linears
