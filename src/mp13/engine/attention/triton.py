"""Attention by our own Triton kernels over the paged cache: how the work of a step is cut into programs.

One kernel serves prefill and decode. Where tiles of queries are too few to fill the GPU, several programs share the
keys of one, and a second kernel joins what they found. All lengths are read on the device: a CUDA graph can hold it.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import triton

from mp13.engine.attention.metadata import AttentionMetadata
from mp13.engine.attention.registry import AttentionSpec
from mp13.engine.attention.triton_kernels import attend_kernel, join_kernel

_JOINED = 32  # dimensions of a head that one program joins


@dataclass(frozen=True)
class _Tile:
    """How a program is cut: so many rows (query heads of tokens) against so many keys at a time."""

    rows: int
    keys: int
    num_warps: int
    num_stages: int


def paged_attention(
    q: torch.Tensor, k_cache: torch.Tensor, v_cache: torch.Tensor, spec: AttentionSpec, meta: AttentionMetadata
) -> torch.Tensor:
    """q: (T, num_heads, head_dim) -> the same shape; the caches already hold the new tokens' K and V."""
    q = q.contiguous()
    out = torch.empty_like(q)
    num_decodes, num_seqs = meta.num_decodes, len(meta.query_lens)
    for seqs in (slice(0, num_decodes), slice(num_decodes, num_seqs)):
        if seqs.start < seqs.stop:
            _attend(q, k_cache, v_cache, out, spec, meta, seqs)
    return out


def _attend(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    out: torch.Tensor,
    spec: AttentionSpec,
    meta: AttentionMetadata,
    seqs: slice,
) -> None:
    """Fill those rows of `out` that belong to `seqs`."""
    _, num_heads, head_dim = q.shape
    num_kv_heads = k_cache.shape[2]
    group = num_heads // num_kv_heads
    query_lens, context_lens = meta.query_lens[seqs], meta.context_lens[seqs]
    most_rows, num_pairs = max(query_lens) * group, num_kv_heads * len(query_lens)
    tile = _tile(most_rows, head_dim, num_pairs >= _num_processors(q.device), q.device)
    num_tiles = triton.cdiv(most_rows, tile.rows)
    num_splits = _num_splits(num_tiles * num_pairs, max(context_lens), most_rows == group, q.device)
    partial = sums = out
    if num_splits > 1:
        partial = q.new_empty(sum(query_lens), num_heads, num_splits, head_dim, dtype=torch.float32)
        sums = q.new_empty(sum(query_lens), num_heads, num_splits, 2, dtype=torch.float32)
    starts, key_lens, tables = meta.cu_seqlens_q[seqs.start :], meta.seqused_k[seqs], meta.block_tables[seqs]
    attend_kernel[(num_kv_heads, num_tiles * num_splits, len(query_lens))](
        q, k_cache, v_cache, out, partial, sums, starts, key_lens, tables, tables.stride(0),
        *k_cache.stride()[:3], spec.scale, spec.softcap, spec.window or 0, num_tiles, num_splits,
        NUM_HEADS=num_heads, GROUP=group, HEAD_DIM=head_dim, DIM=triton.next_power_of_2(head_dim),
        PAGE=meta.block_size, ROWS=tile.rows, KEYS=tile.keys, SPLIT=num_splits > 1, CAPPED=spec.softcap > 0,
        WINDOWED=spec.window is not None, num_warps=tile.num_warps, num_stages=tile.num_stages,
    )  # fmt: skip
    if num_splits > 1:
        join_kernel[(len(query_lens), max(query_lens), num_heads * triton.cdiv(head_dim, _JOINED))](
            partial, sums, out, starts, num_splits,
            NUM_HEADS=num_heads, HEAD_DIM=head_dim, DIM=_JOINED, SPLITS=triton.next_power_of_2(num_splits), num_warps=4,
        )  # fmt: skip


def _tile(num_rows: int, head_dim: int, fills: bool, device: torch.device) -> _Tile:
    """What was fastest on an H100. A GPU with less shared memory gets fewer stages.

    Args:
        num_rows: of the longest sequence; a decode has no more than the query heads that share a KV head.
        fills: there are enough programs for every processor of the GPU without splitting the keys.
    """
    dim = triton.next_power_of_2(head_dim)
    if num_rows <= 16:
        rows, num_warps = 16, 4
        keys, stages = (128, 3) if fills and dim <= 128 else (32, 2)
    elif num_rows <= 128 or dim > 128:
        rows, keys, num_warps, stages = 64, 64 if dim <= 128 else 32, 4, 2
    else:
        rows, keys, num_warps, stages = 128, 128, 8, 3
    return _Tile(rows, keys, num_warps, max(1, min(stages, _shared_memory(device) // (4 * keys * dim))))


def _num_splits(num_programs: int, longest: int, decodes: bool, device: torch.device) -> int:
    """Into how many parts the keys of each tile are split, of 64 keys or more: where there are fewer programs than
    processors, so that each gets four (of a decode, which waits for memory) or two."""
    num_processors = _num_processors(device)
    if num_programs >= num_processors:
        return 1
    return max(1, min((4 if decodes else 2) * num_processors // num_programs, triton.cdiv(longest, 64), 128))


@cache
def _shared_memory(device: torch.device) -> int:
    """Bytes that one program may take."""
    if device.type != "cuda":
        return 1 << 17  # Triton's interpreter
    properties: Any = torch.cuda.get_device_properties(device)
    return int(properties.shared_memory_per_block_optin)


@cache
def _num_processors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1
