"""Rotary position embedding (Su et al. 2021) and the ways models stretch it: all functions of a token's place alone, so
that cached keys stay true."""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

ROPE_TYPES = ("default", "linear", "llama3", "yarn")


@dataclass(frozen=True)
class RopeConfig:
    """How far each pair of dimensions turns from token to token, and what else depends on a token's place.

    `kind` is how the frequencies are stretched, `factor` by how much, from a training context of `original_max_len`
    tokens. A pair that makes at most `slow_turns` within that context is stretched whole, one that makes `fast_turns`
    or more not at all.
    """

    theta: float
    kind: str = "default"
    factor: float = 1.0
    original_max_len: int = 8192
    slow_turns: float = 1.0
    fast_turns: float = 4.0
    whole_pairs: bool = True  # YaRN: the stretch begins and ends between two pairs of dimensions
    table_scale: float = 1.0  # YaRN: of queries and keys alike
    query_beta: float = 0.0  # Llama 4: queries grow with the logarithm of the number of contexts before them


class Places(NamedTuple):
    """What the places of T tokens do to their queries and keys."""

    cos: torch.Tensor  # (T, 1, head_dim)
    sin: torch.Tensor  # (T, 1, head_dim), the first half with the rotation's minus sign
    query_scale: torch.Tensor | None  # (T, 1, 1)


def rope_config(parameters: dict[str, Any]) -> RopeConfig:
    """From the `rope_parameters` of a Hugging Face configuration, of one of ROPE_TYPES."""
    kind, theta = parameters["rope_type"], parameters["rope_theta"]
    if kind == "default":
        return RopeConfig(theta)
    factor = parameters["factor"]
    if kind == "linear":
        return RopeConfig(theta, kind, factor)
    original = parameters["original_max_position_embeddings"]
    if kind == "llama3":
        return RopeConfig(theta, kind, factor, original, parameters["low_freq_factor"], parameters["high_freq_factor"])
    return RopeConfig(
        theta, kind, factor, original, parameters.get("beta_slow") or 1.0, parameters.get("beta_fast") or 32.0,
        whole_pairs=parameters.get("truncate", True), table_scale=_yarn_scale(parameters, factor),
        query_beta=parameters.get("llama_4_scaling_beta") or 0.0,
    )  # fmt: skip


def _yarn_scale(parameters: dict[str, Any], factor: float) -> float:
    def growth(by: float) -> float:
        return 0.1 * by * math.log(factor) + 1.0 if factor > 1 else 1.0

    if (scale := parameters.get("attention_factor")) is not None:
        return float(scale)
    above, below = parameters.get("mscale"), parameters.get("mscale_all_dim")
    return growth(above) / growth(below) if above and below else growth(1.0)


def rope_inv_freq(rope: RopeConfig, head_dim: int) -> torch.Tensor:
    """Angle per position of each pair of dimensions, float32 (head_dim / 2,)."""
    inv_freq = rope.theta ** -(torch.arange(0, head_dim, 2, dtype=torch.int64).float() / head_dim)
    if rope.kind == "default":
        return inv_freq
    if rope.kind == "linear":
        return inv_freq / rope.factor
    keep = _llama3_keep(rope, inv_freq) if rope.kind == "llama3" else _yarn_keep(rope, head_dim)
    return keep * inv_freq + (1 - keep) * inv_freq / rope.factor


def _llama3_keep(rope: RopeConfig, inv_freq: torch.Tensor) -> torch.Tensor:
    """How much of each frequency is kept, 0 to 1 (head_dim / 2,), along the turns that it makes (Llama 3.1)."""
    turns = rope.original_max_len * inv_freq / (2 * math.pi)  # within the original context
    return ((turns - rope.slow_turns) / (rope.fast_turns - rope.slow_turns)).clamp(0, 1)


def _yarn_keep(rope: RopeConfig, head_dim: int) -> torch.Tensor:
    """The same along the number of the pair, between those that make so many turns (YaRN, Peng et al. 2023)."""

    def pair_that_turns(turns: float) -> float:
        return head_dim * math.log(rope.original_max_len / (turns * 2 * math.pi)) / (2 * math.log(rope.theta))

    first, last = pair_that_turns(rope.fast_turns), pair_that_turns(rope.slow_turns)
    if rope.whole_pairs:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, head_dim - 1)
    stretched = (torch.arange(head_dim // 2).float() - first) / ((last - first) or 0.001)
    return 1 - stretched.clamp(0, 1)


def places(rope: RopeConfig, positions: torch.Tensor, inv_freq: torch.Tensor, dtype: torch.dtype) -> Places:
    """positions: (T,)"""
    angles = positions[:, None, None].float() * inv_freq  # (T, 1, head_dim / 2)
    cos, sin = angles.cos(), angles.sin()
    if rope.table_scale != 1.0:
        cos, sin = cos * rope.table_scale, sin * rope.table_scale
    scale = None
    if rope.query_beta:
        contexts = torch.floor(positions[:, None, None] / rope.original_max_len)
        scale = (1 + rope.query_beta * torch.log1p(contexts)).to(dtype)
    return Places(torch.cat([cos, cos], -1).to(dtype), torch.cat([-sin, sin], -1).to(dtype), scale)


def apply_rope(x: torch.Tensor, at: Places) -> torch.Tensor:
    """Turn dimension i together with i + head_dim / 2 by the token's angle. x: (T, heads, head_dim)"""
    return (x * at.cos).addcmul_(x.roll(x.shape[-1] // 2, -1), at.sin)
