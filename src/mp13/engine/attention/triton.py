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
    num_tokens, num_heads, head_dim = q.shape
    num_kv_heads = k_cache.shape[2]
    group = num_heads // num_kv_heads
    query_lens, context_lens = meta.query_lens[seqs], meta.context_lens[seqs]
    tile = _tile(max(query_lens) * group, head_dim, q.device)
    num_tiles = triton.cdiv(max(query_lens) * group, tile.rows)
    num_splits = _num_splits(num_tiles * num_kv_heads * len(query_lens), max(context_lens), q.device)
    partial = sums = out
    if num_splits > 1:
        partial = q.new_empty(num_tokens, num_heads, num_splits, head_dim, dtype=torch.float32)
        sums = q.new_empty(num_tokens, num_heads, num_splits, 2, dtype=torch.float32)
    starts, key_lens, tables = meta.cu_seqlens_q[seqs.start :], meta.seqused_k[seqs], meta.block_tables[seqs]
    attend_kernel[(num_kv_heads, num_tiles * num_splits, len(query_lens))](
        q, k_cache, v_cache, out, partial, sums, starts, key_lens, tables, tables.stride(0),
        *k_cache.stride()[:3], spec.scale, spec.softcap, spec.window or 0, num_tiles, num_splits,
        NUM_HEADS=num_heads, GROUP=group, HEAD_DIM=head_dim, DIM=triton.next_power_of_2(head_dim),
        PAGE=meta.block_size, ROWS=tile.rows, KEYS=tile.keys, SPLIT=num_splits > 1, CAPPED=spec.softcap > 0,
        WINDOWED=spec.window is not None, num_warps=tile.num_warps, num_stages=tile.num_stages,
    )  # fmt: skip
    if num_splits > 1:
        join_kernel[(len(query_lens), max(query_lens), num_heads)](
            partial, sums, out, starts, num_splits,
            NUM_HEADS=num_heads, HEAD_DIM=head_dim, DIM=triton.next_power_of_2(head_dim),
            SPLITS=triton.next_power_of_2(num_splits), num_warps=4,
        )  # fmt: skip


def _tile(num_rows: int, head_dim: int, device: torch.device) -> _Tile:
    """What was fastest on an H100: many small loads under way for a decode's few rows, reuse for a prefill's many.
    Large heads and smaller GPUs get fewer stages, as their shared memory holds."""
    rows, keys, stages = (16, 32, 2) if num_rows <= 16 else (64, 64, 2) if num_rows <= 4096 else (128, 64, 3)
    dim = triton.next_power_of_2(head_dim)
    if dim > 128:
        rows, keys = min(rows, 64), 32
    room = _shared_memory(device) - 2 * rows * dim
    return _Tile(rows, keys, 4, max(1, min(stages, room // (4 * keys * dim))))


def _num_splits(num_programs: int, longest: int, device: torch.device) -> int:
    """Into how many parts the keys of each tile are split: enough for four programs a processor, of 64 keys or more."""
    wanted = triton.cdiv(4 * _num_processors(device), num_programs)
    return max(1, min(wanted, triton.cdiv(longest, 64), 128))


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
