"""A decoder-only transformer in the Llama layout, to be read: Llama 3, SmolLM, Qwen2, Qwen3, Mistral, Ministral 3.

One call computes a packed step: T tokens, from any number of sequences, one after the other. What belongs to which
sequence is known to attention alone (`PagedAttention`); everything else treats tokens one by one.

    embed -> num_layers × (norm -> attention -> add,  norm -> MLP -> add) -> norm -> logits
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

from mp13.engine.attention.paged import PagedAttention
from mp13.engine.attention.registry import AttentionSpec, PagedAttentionFunction
from mp13.engine.context import StepContext
from mp13.engine.linear.adapted_linear import AdaptedLinear
from mp13.engine.linear.base_weight import BaseWeight
from mp13.engine.models.decoder_config import DecoderConfig
from mp13.engine.models.interface import AdapterTarget, CacheShape
from mp13.engine.models.model_weights import ModelWeights
from mp13.engine.models.pointwise import rms_norm, swiglu
from mp13.engine.models.rope import Places, apply_rope, places, rope_inv_freq


class Decoder(nn.Module):
    """A `CausalModel`.

    Args:
        weights: what it is built of, by Hugging Face name.
    """

    def __init__(
        self,
        config: DecoderConfig,
        weights: ModelWeights,
        attend: PagedAttentionFunction,
        context: StepContext,
    ) -> None:
        super().__init__()
        self.config, self.dtype = config, weights.dtype
        self.cache_shape = CacheShape(config.num_layers, config.num_kv_heads, config.head_dim)
        self.embedding = weights.embedding("model.embed_tokens")
        self.layers = nn.ModuleList(
            DecoderLayer(config, index, weights, attend, context) for index in range(config.num_layers)
        )
        self.norm = RMSNorm(weights.vector("model.norm.weight"), config.norm_eps)
        tied_to = "model.embed_tokens" if config.tie_embeddings else None
        self.head = weights.head("lm_head", tied_to, False, context, of_rows=True)
        self.inv_freq = rope_inv_freq(config.rope, config.head_dim).to(weights.device)  # (head_dim / 2,)
        self.targets = _targets(self)

    def forward(self, input_ids: torch.Tensor, positions: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """input_ids, positions: (T,); rows: (R,), the tokens whose logits are wanted -> (R, vocab_size)"""
        return self.logits(self.hidden(input_ids, positions)[rows])

    @property
    def head_weight(self) -> BaseWeight:
        return self.head.base

    def hidden(self, input_ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """The residual stream behind the last layer, (T, hidden_size)"""
        x: torch.Tensor = self.embedding(input_ids).to(self.dtype)
        at = places(self.config.rope, positions, self.inv_freq, x.dtype)
        for layer in self.layers:
            x = layer(x, at)
        return x

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """(R, hidden_size) -> (R, vocab_size)"""
        logits: torch.Tensor = self.head(self.norm(hidden))
        return logits


class DecoderLayer(nn.Module):
    """Attention lets tokens look at each other, the MLP thinks about each alone; both add to the residual stream x."""

    def __init__(
        self,
        config: DecoderConfig,
        index: int,
        weights: ModelWeights,
        attend: PagedAttentionFunction,
        context: StepContext,
    ) -> None:
        super().__init__()
        prefix = f"model.layers.{index}"
        self.input_norm = RMSNorm(weights.vector(f"{prefix}.input_layernorm.weight"), config.norm_eps)
        self.attention = Attention(config, index, weights, attend, context)
        self.mlp_norm = RMSNorm(weights.vector(f"{prefix}.post_attention_layernorm.weight"), config.norm_eps)
        self.mlp = MLP(config, f"{prefix}.mlp", weights, context)

    def forward(self, x: torch.Tensor, at: Places) -> torch.Tensor:
        x = x + self.attention(self.input_norm(x), at)
        return x + self.mlp(self.mlp_norm(x))


class Attention(nn.Module):
    """Queries, keys and values come out of one packed product; the rotary embedding turns q and k in one go."""

    def __init__(
        self,
        config: DecoderConfig,
        index: int,
        weights: ModelWeights,
        attend: PagedAttentionFunction,
        context: StepContext,
    ) -> None:
        super().__init__()
        self.num_heads, self.num_kv_heads, self.head_dim = config.num_heads, config.num_kv_heads, config.head_dim
        self.norm_eps = config.norm_eps
        prefix = f"model.layers.{index}.self_attn"
        self.qkv = weights.linear([f"{prefix}.{p}_proj" for p in "qkv"], config.qkv_bias, context)
        self.output = weights.linear([f"{prefix}.o_proj"], config.output_bias, context)
        spec = AttentionSpec(scale=1 / math.sqrt(config.head_dim), window=config.windows[index])
        self.paged = PagedAttention(index, spec, attend, context)
        self.qk_norm: torch.Tensor | None = None  # Qwen3: a norm weight for every query and key head
        if config.qk_norm:
            q_norm, k_norm = (weights.vector(f"{prefix}.{p}_norm.weight") for p in "qk")  # (head_dim,)
            self.qk_norm = torch.cat([q_norm.expand(self.num_heads, -1), k_norm.expand(self.num_kv_heads, -1)])

    def forward(self, x: torch.Tensor, at: Places) -> torch.Tensor:
        num_tokens, num_qk = x.shape[0], self.num_heads + self.num_kv_heads
        qkv = self.qkv(x).view(num_tokens, -1, self.head_dim)  # (T, num_heads + 2 * num_kv_heads, head_dim)
        qk, v = qkv[:, :num_qk], qkv[:, num_qk:]
        if self.qk_norm is not None:
            qk = F.rms_norm(qk, (self.head_dim,), eps=self.norm_eps) * self.qk_norm
        qk = apply_rope(qk, at)
        q, k = qk[:, : self.num_heads], qk[:, self.num_heads :]
        if at.query_scale is not None:
            q = q * at.query_scale
        return self.output(self.paged(q, k, v).reshape(num_tokens, -1))


class MLP(nn.Module):
    """down(silu(gate(x)) * up(x)), gate and up in one packed product."""

    def __init__(self, config: DecoderConfig, prefix: str, weights: ModelWeights, context: StepContext) -> None:
        super().__init__()
        self.gate_up = weights.linear([f"{prefix}.gate_proj", f"{prefix}.up_proj"], config.mlp_bias, context)
        self.down = weights.linear([f"{prefix}.down_proj"], config.mlp_bias, context)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(swiglu(self.gate_up(x)))  # 2 * intermediate_size, then half of it


class RMSNorm(nn.Module):
    def __init__(self, weight: torch.Tensor, eps: float) -> None:
        super().__init__()
        self.weight = _frozen(weight)
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return rms_norm(x, self.weight, self.eps)


def _targets(model: nn.Module) -> dict[str, AdapterTarget]:
    linears = [module for module in model.modules() if isinstance(module, AdaptedLinear)]
    return {name: AdapterTarget(linear, i) for linear in linears for i, name in enumerate(linear.parts)}


def _frozen(tensor: torch.Tensor) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=False)
