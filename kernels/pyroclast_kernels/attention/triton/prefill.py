"""Attention of the sequences that have several new tokens in this step.

A program takes neighbouring tokens of one sequence with the query heads of a group, packed into one
tile of rows, over all the positions they see.  Tiles of a sequence begin at its first token, so
that no other sequence of the batch changes what is computed together.  Only tiles at the edges of
what is seen are masked.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
from __future__ import annotations

import triton
import triton.language as tl

from pyroclast_kernels.attention.triton.out import store_rows
from pyroclast_kernels.attention.triton.tile import attend, mean, no_sums, query_rows


@triton.jit
def _sequence(seq_starts, n_seqs, tile, tile_tokens: tl.constexpr):
    """The last sequence whose tiles begin at or before `tile`: sequence s has those from
    seq_starts[s] // tile_tokens + s on, which leaves room for a part of a tile in each."""
    low, high = tile * 0, n_seqs
    while high - low > 1:
        middle = (low + high) // 2
        begins = tl.load(seq_starts + middle) // tile_tokens + middle <= tile
        low, high = tl.where(begins, middle, low), tl.where(begins, high, middle)
    return low


@triton.jit(do_not_specialize=["max_blocks", "window"])
def prefill_kernel(
    n_seqs, seq_starts, positions, block_tables, qkv, k_cache, v_cache, out, out_q8, max_blocks,
    window, scale, inner, sinks, n_heads: tl.constexpr, n_kv_heads: tl.constexpr,
    head_dim: tl.constexpr, block_d: tl.constexpr, stride: tl.constexpr, tile_heads: tl.constexpr,
    tile_tokens: tl.constexpr, block_m: tl.constexpr, block_n: tl.constexpr,
    dot_type: tl.constexpr, in_pairs: tl.constexpr, capped: tl.constexpr, windowed: tl.constexpr,
    stages: tl.constexpr,
):  # fmt: skip
    """Grid (tiles, n_kv_heads * parts of a group of tile_heads query heads).  The last tile comes
    first, since those late in a prompt take longest."""
    tile = tl.num_programs(0) - 1 - tl.program_id(0)
    used_seqs = tl.load(n_seqs).to(tl.int32)
    if used_seqs == 0:
        return
    seq = _sequence(seq_starts, used_seqs, tile, tile_tokens)
    start, stop = tl.load(seq_starts + seq), tl.load(seq_starts + seq + 1)
    begin = start + (tile - start // tile_tokens - seq) * tile_tokens
    if (stop - start == 1) | (begin >= stop):
        return
    group: tl.constexpr = n_heads // n_kv_heads
    parts: tl.constexpr = (group + tile_heads - 1) // tile_heads
    kv_head, part = tl.program_id(1) // parts, tl.program_id(1) % parts
    row = tl.arange(0, block_m)
    token, head = begin + row // tile_heads, part * tile_heads + row % tile_heads
    mask = (row < tile_tokens * tile_heads) & (token < stop) & (head < group)
    head += kv_head * group
    q_at = token * ((n_heads + 2 * n_kv_heads) * head_dim) + head * head_dim
    q_a, q_b = query_rows(qkv, q_at, mask, head_dim, block_d, dot_type, in_pairs)
    earliest = tl.load(positions + begin)
    limit = tl.load(positions + tl.minimum(begin + tile_tokens, stop) - 1) + 1
    last = tl.load(positions + token, mask, 0)
    last = tl.where(mask, last, limit - 1)[:, None]  # rows of nobody see something, too
    first, lowest, full_from = last * 0, limit * 0, limit * 0
    if windowed:
        first, lowest = last - window + 1, tl.maximum(earliest - window + 1, 0)
        full_from = tl.cdiv(tl.maximum(limit - window, 0), block_n) * block_n
    full_to = (earliest + 1) // block_n * block_n  # every row sees all of [full_from, full_to)
    pack: tl.constexpr = 2 if in_pairs else 1
    keys = k_cache + kv_head * (head_dim // pack * 32)
    values = v_cache + kv_head * (stride * 32 // pack)
    table = block_tables + seq.to(tl.int64) * max_blocks
    rows, cells = (q_a, q_b, first, last), (keys, values, table, lowest, limit)
    state = no_sums(block_m, block_d)
    if windowed:
        state = attend(
            state, rows, cells, lowest // block_n * block_n, tl.minimum(full_from, limit), scale,
            inner, n_kv_heads, head_dim, block_d, stride, block_n, dot_type, in_pairs, capped, True,
            True, stages,
        )  # fmt: skip
    state = attend(
        state, rows, cells, full_from, full_to, scale, inner,
        n_kv_heads, head_dim, block_d, stride, block_n, dot_type, in_pairs, capped, False, True,
        stages,
    )  # fmt: skip
    acc, top, total = attend(
        state, rows, cells, tl.maximum(full_from, full_to), limit, scale, inner,
        n_kv_heads, head_dim, block_d, stride, block_n, dot_type, in_pairs, capped, True, True,
        stages,
    )  # fmt: skip
    y = mean(acc, top, total, sinks, head, mask)
    store_rows(y, out, out_q8, token * n_heads + head, mask, head_dim, block_d)
