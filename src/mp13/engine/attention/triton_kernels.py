"""Flash attention (Dao et al. 2022) in Triton, over the paged cache. How it is launched is in triton.py.

A program keeps a tile of queries and walks along the keys with a running softmax. Query heads that share a KV head lie
in one tile, so each key is read once for all of them. With SPLIT a program takes one part of the keys, and
`join_kernel` joins the parts (flash-decoding, Dao et al. 2023).
"""

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def attend_kernel(
    q_ptr, k_ptr, v_ptr, out_ptr, partial_ptr, sums_ptr,
    starts_ptr, key_lens_ptr, tables_ptr, table_stride, block_stride, token_stride, head_stride,
    scale, softcap, window, num_tiles, num_splits,
    NUM_HEADS: tl.constexpr, GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, DIM: tl.constexpr, PAGE: tl.constexpr,
    ROWS: tl.constexpr, KEYS: tl.constexpr, SPLIT: tl.constexpr, CAPPED: tl.constexpr, WINDOWED: tl.constexpr,
):  # fmt: skip
    """One tile of one sequence and KV head, against one part of its keys. Row r of a sequence is query head
    r % GROUP (of those that share the KV head) of its new token r // GROUP."""
    kv_head, seq = tl.program_id(0), tl.program_id(2)
    split = tl.program_id(1) % num_splits
    tile = num_tiles - 1 - tl.program_id(1) // num_splits  # the last see the most keys and begin first
    start = tl.load(starts_ptr + seq)
    query_len = tl.load(starts_ptr + seq + 1) - start
    key_len = tl.load(key_lens_ptr + seq)
    if tile * ROWS >= query_len * GROUP:
        return

    rows = tile * ROWS + tl.arange(0, ROWS)
    tokens, heads = rows // GROUP, kv_head * GROUP + rows % GROUP
    dims = tl.arange(0, DIM)
    is_row = rows < query_len * GROUP
    inside = is_row[:, None] & (dims < HEAD_DIM)[None, :]
    out_rows = (start + tokens) * NUM_HEADS + heads  # of (T * num_heads, head_dim)
    q = tl.load(q_ptr + out_rows[:, None] * HEAD_DIM + dims[None, :], mask=inside, other=0.0)  # (ROWS, DIM)

    first = key_len - query_len + tile * ROWS // GROUP  # the places of its first and last query among the keys
    last = min(key_len - query_len + (tile * ROWS + ROWS - 1) // GROUP, key_len - 1)
    low, middle_low, middle_high, high = _part(first, last, window, split, num_splits, KEYS, WINDOWED)
    places = key_len - query_len + tokens
    row_max = tl.full([ROWS], -float("inf"), tl.float32)
    row_sum = tl.zeros([ROWS], tl.float32)
    acc = tl.zeros([ROWS, DIM], tl.float32)
    k_ptr += kv_head * head_stride
    v_ptr += kv_head * head_stride
    tables_ptr += seq * table_stride
    if WINDOWED:
        acc, row_max, row_sum = _walk(
            acc, row_max, row_sum, q, k_ptr, v_ptr, tables_ptr, block_stride, token_stride, places, low, middle_low,
            high, scale, softcap, window, HEAD_DIM, DIM, PAGE, KEYS, CAPPED, WINDOWED, True,
        )  # fmt: skip
    acc, row_max, row_sum = _walk(
        acc, row_max, row_sum, q, k_ptr, v_ptr, tables_ptr, block_stride, token_stride, places, middle_low, middle_high,
        high, scale, softcap, window, HEAD_DIM, DIM, PAGE, KEYS, CAPPED, WINDOWED, False,
    )  # fmt: skip
    acc, row_max, row_sum = _walk(
        acc, row_max, row_sum, q, k_ptr, v_ptr, tables_ptr, block_stride, token_stride, places, middle_high, high,
        high, scale, softcap, window, HEAD_DIM, DIM, PAGE, KEYS, CAPPED, WINDOWED, True,
    )  # fmt: skip

    if SPLIT:
        at = (out_rows - tl.load(starts_ptr) * NUM_HEADS) * num_splits + split
        tl.store(sums_ptr + at * 2, row_max, mask=is_row)
        tl.store(sums_ptr + at * 2 + 1, row_sum, mask=is_row)
        if low < high:
            tl.store(partial_ptr + at[:, None] * HEAD_DIM + dims[None, :], acc, mask=inside)
    else:
        out = (acc / row_sum[:, None]).to(out_ptr.dtype.element_ty)
        tl.store(out_ptr + out_rows[:, None] * HEAD_DIM + dims[None, :], out, mask=inside)


@triton.jit
def _part(first, last, window, split, num_splits, KEYS: tl.constexpr, WINDOWED: tl.constexpr):
    """Part number `split` of the keys that queries at `first` to `last` see. Of its middle all of them see all keys; at
    both ends there is something to mask."""
    low = 0
    if WINDOWED:
        low = max(0, first - window + 1) // KEYS * KEYS
    high = last + 1
    length = tl.cdiv(tl.cdiv(high - low, KEYS), num_splits) * KEYS
    low = low + split * length
    high = min(high, low + length)
    middle_low = low
    if WINDOWED:
        middle_low = min(max(low, tl.cdiv(max(0, last - window + 1), KEYS) * KEYS), max(low, high))
    middle_high = max(middle_low, min(high, first + 1) // KEYS * KEYS)
    return low, middle_low, middle_high, high


@triton.jit
def _walk(
    acc, row_max, row_sum, q, k_ptr, v_ptr, table_ptr, block_stride, token_stride, places, first, last, key_len,
    scale, softcap, window,
    HEAD_DIM: tl.constexpr, DIM: tl.constexpr, PAGE: tl.constexpr, KEYS: tl.constexpr, CAPPED: tl.constexpr,
    WINDOWED: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """Take in the keys from `first` to `last`; with MASKED, each row only those that it sees."""
    dims = tl.arange(0, DIM)
    to_log2 = scale * LOG2_E  # scores as exponents of 2: so e^x is one instruction
    if CAPPED:
        to_cap, to_log2 = 2 * scale / softcap * LOG2_E, softcap * LOG2_E
    for start in tl.range(first, last, KEYS):
        keys = start + tl.arange(0, KEYS)
        if MASKED:
            blocks = tl.load(table_ptr + keys // PAGE, mask=keys < key_len, other=0)
        else:
            blocks = tl.load(table_ptr + keys // PAGE)
        at = blocks.to(tl.int64) * block_stride + keys % PAGE * token_stride
        if MASKED:  # what lies behind the last key may be anything, NaN too
            exists = (keys < key_len)[:, None] & (dims < HEAD_DIM)[None, :]
            k = tl.load(k_ptr + at[:, None] + dims[None, :], mask=exists, other=0.0)  # (KEYS, DIM)
            v = tl.load(v_ptr + at[:, None] + dims[None, :], mask=exists, other=0.0)
        elif HEAD_DIM != DIM:
            exists = (dims < HEAD_DIM)[None, :]
            k = tl.load(k_ptr + at[:, None] + dims[None, :], mask=exists, other=0.0)
            v = tl.load(v_ptr + at[:, None] + dims[None, :], mask=exists, other=0.0)
        else:
            k = tl.load(k_ptr + at[:, None] + dims[None, :])
            v = tl.load(v_ptr + at[:, None] + dims[None, :])
        scores = tl.dot(q, k.T)  # (ROWS, KEYS)
        if CAPPED:
            scores = 1 - 2 / (1 + tl.exp2(scores * to_cap))  # tanh
        if MASKED:
            seen = (keys[None, :] <= places[:, None]) & (keys < key_len)[None, :]
            if WINDOWED:
                seen = seen & (places[:, None] - keys[None, :] < window)
            scores = tl.where(seen, scores, -float("inf"))
        new_max = tl.maximum(row_max, tl.max(scores, 1) * to_log2)
        shift = new_max
        if MASKED:
            shift = tl.where(new_max == -float("inf"), 0.0, new_max)  # a row that has seen no key yet
        weights = tl.exp2(scores * to_log2 - shift[:, None])
        old = tl.exp2(row_max - shift)
        row_sum = row_sum * old + tl.sum(weights, 1)
        acc = acc * old[:, None]
        acc = tl.dot(weights.to(v.dtype), v, acc)
        row_max = new_max
    return acc, row_max, row_sum


@triton.jit
def join_kernel(
    partial_ptr, sums_ptr, out_ptr, starts_ptr, num_splits,
    NUM_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, DIM: tl.constexpr, SPLITS: tl.constexpr,
):  # fmt: skip
    """DIM dimensions of one query head of one token: the parts' sums, weighted as if they had shared one maximum."""
    start = tl.load(starts_ptr + tl.program_id(0))
    if tl.program_id(1) >= tl.load(starts_ptr + tl.program_id(0) + 1) - start:
        return
    row = (start + tl.program_id(1)) * NUM_HEADS + tl.program_id(2) % NUM_HEADS
    splits, dims = tl.arange(0, SPLITS), tl.program_id(2) // NUM_HEADS * DIM + tl.arange(0, DIM)
    at = (row - tl.load(starts_ptr) * NUM_HEADS) * num_splits + splits
    part_max = tl.load(sums_ptr + at * 2, mask=splits < num_splits, other=-float("inf"))
    part_sum = tl.load(sums_ptr + at * 2 + 1, mask=splits < num_splits, other=0.0)
    weight = tl.where(part_sum > 0, tl.exp2(part_max - tl.max(part_max, 0)), 0.0)
    exists = (part_sum > 0)[:, None] & (dims < HEAD_DIM)[None, :]
    parts = tl.load(partial_ptr + at[:, None] * HEAD_DIM + dims[None, :], mask=exists, other=0.0)  # (SPLITS, DIM)
    out = tl.sum(parts * weight[:, None], 0) / tl.sum(part_sum * weight, 0)
    tl.store(out_ptr + row * HEAD_DIM + dims, out.to(out_ptr.dtype.element_ty), mask=dims < HEAD_DIM)
