"""Attention of the sequences that have a single new token in this step.

One program takes up to 16 query heads of a group, with one kv head, over one split of a token's
positions.  Splits are cut by the token's position alone, so that its result never depends on who
else decodes.  Each leaves its sums in scratch; who arrives last of a group merges them, first split
first, and writes the output (flash-decoding, Dao et al. 2023, in a single kernel).
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
from __future__ import annotations

import triton
import triton.language as tl

from pyroclast_kernels.attention.triton.out import store_rows
from pyroclast_kernels.attention.triton.rotate import rotated_rows, write_newest
from pyroclast_kernels.attention.triton.steps import steps
from pyroclast_kernels.attention.triton.tile import attend, mean, no_sums, query_rows

MAX_SPLITS = tl.constexpr(64)
MIN_SPLIT = tl.constexpr(256)  # positions; a multiple of every block_n
MAX_HEADS = 16  # query heads of a program: the rows of the smallest matrix instruction


@triton.jit
def _split_length(n, block_n: tl.constexpr):
    """Positions per split of n positions: at most MAX_SPLITS splits, none below MIN_SPLIT."""
    share = tl.cdiv(tl.cdiv(n, MAX_SPLITS), block_n) * block_n
    return tl.maximum(share, MIN_SPLIT)


@triton.jit
def _merged(
    tops, totals, sums, n_splits, rows, sinks, head, tile_heads: tl.constexpr,
    head_dim: tl.constexpr, block_r: tl.constexpr, block_d: tl.constexpr, chunk: tl.constexpr,
):  # fmt: skip
    """float32 (block_r, block_d): the weighted mean over all splits, of query heads from `head` on
    with their sinks.  Reads past the first-level cache, which knows nothing of what other programs
    wrote."""
    row, dim = tl.arange(0, block_r), tl.arange(0, block_d)
    split = tl.arange(0, MAX_SPLITS)[:, None]
    seen = (split < n_splits) & (row < rows)[None, :]
    at = split * tile_heads + row[None, :]
    top = tl.load(tops + at, mask=seen, other=float("-inf"), cache_modifier=".cg")
    total = tl.load(totals + at, mask=seen, other=0.0, cache_modifier=".cg")
    maximum = tl.max(top, axis=0)
    maximum = tl.where(maximum == float("-inf"), 0.0, maximum)
    whole = tl.sum(total * tl.exp2(top - maximum[None, :]), axis=0)
    acc = tl.zeros((block_r, block_d), tl.float32)
    for begin in steps(0, n_splits, chunk):
        some = begin + tl.arange(0, chunk)[:, None]
        some_seen = (some < n_splits) & (row < rows)[None, :]
        some_at = some * tile_heads + row[None, :]
        tops_of = tl.load(tops + some_at, some_seen, float("-inf"), cache_modifier=".cg")
        part = tl.load(
            sums + some_at[:, :, None] * head_dim + dim[None, None, :],
            mask=some_seen[:, :, None] & (dim < head_dim)[None, None, :],
            other=0.0,
            cache_modifier=".cg",
        )
        acc += tl.sum(part * tl.exp2(tops_of - maximum[None, :])[:, :, None], axis=0)
    whole = tl.where(row < rows, whole, 1.0)
    return mean(acc, maximum, whole, sinks, head + row, row < rows)


@triton.jit(do_not_specialize=["first_seq", "max_blocks", "window"])
def decode_kernel(
    n_seqs, seq_starts, positions, block_tables, qkv, k_cache,
    v_cache, out, out_q8, angles, scratch, counters, first_seq,
    max_blocks, window, scale, inner, sinks, temperature, temperature_length, n_heads: tl.constexpr,
    n_kv_heads: tl.constexpr, head_dim: tl.constexpr, block_d: tl.constexpr, stride: tl.constexpr,
    tile_heads: tl.constexpr, block_r: tl.constexpr, block_n: tl.constexpr, chunk: tl.constexpr,
    dot_type: tl.constexpr, in_pairs: tl.constexpr, rotary_dim: tl.constexpr, grows: tl.constexpr,
    capped: tl.constexpr, stages: tl.constexpr,
):  # fmt: skip
    """Grid (sequences from first_seq on, n_kv_heads * parts of a group of tile_heads query heads,
    splits).  scratch float32: the sums of each program, tile_heads * head_dim, then the tops of
    each, tile_heads, then the totals.  counters int32: one for each pair of the first two axes.
    angles: rope's table, where that is still to be done; see rotate.py.  rotary_dim, temperature
    and temperature_length are rope's too; grows: temperature > 0.
    """
    seq = first_seq + tl.program_id(0)
    if seq >= tl.load(n_seqs):
        return
    token = tl.load(seq_starts + seq)
    if tl.load(seq_starts + seq + 1) - token != 1:
        return
    group: tl.constexpr = n_heads // n_kv_heads
    parts: tl.constexpr = (group + tile_heads - 1) // tile_heads
    kv_head, part = tl.program_id(1) // parts, tl.program_id(1) % parts
    limit = tl.load(positions + token) + 1
    first = tl.where(window > 0, tl.maximum(limit - window, 0), 0)
    origin = first // block_n * block_n
    length = _split_length(limit - origin, block_n)
    split, n_splits = tl.program_id(2), tl.cdiv(limit - origin, length)
    if split >= n_splits:
        return
    begin = origin + split * length
    rows = tl.minimum(group - part * tile_heads, tile_heads)
    head = kv_head * group + part * tile_heads
    row = tl.arange(0, 16)
    at = token * ((n_heads + 2 * n_kv_heads) * head_dim)
    table = block_tables + seq.to(tl.int64) * max_blocks
    if angles is not None:
        angles += token * rotary_dim
        q_a, q_b = rotated_rows(
            qkv, angles, at + (head + row) * head_dim, row < rows,
            (limit - 1, temperature, temperature_length), head_dim, rotary_dim, block_d, dot_type,
            in_pairs, grows,
        )  # fmt: skip
        if split == n_splits - 1:
            write_newest(
                qkv, angles, k_cache, v_cache, table, at, limit - 1, kv_head, n_heads, n_kv_heads,
                head_dim, rotary_dim, block_d, stride, in_pairs,
            )  # fmt: skip
    else:
        q_a, q_b = query_rows(
            qkv, at + (head + row) * head_dim, row < rows, head_dim, block_d, dot_type, in_pairs
        )
    pack: tl.constexpr = 2 if in_pairs else 1
    keys_at, values_at = kv_head * (head_dim // pack * 32), kv_head * (stride * 32 // pack)
    cells = (k_cache + keys_at, v_cache + values_at, table, first, limit)
    acc, top, total = attend(
        no_sums(16, block_d), (q_a, q_b, first, limit - 1), cells,
        begin, tl.minimum(begin + length, limit), scale, inner, n_kv_heads, head_dim, block_d,
        stride, block_n, dot_type, in_pairs, capped, True, False, stages,
    )  # fmt: skip
    out_at = token * n_heads + head
    if n_splits == 1:
        store_rows(
            mean(acc, top, total, sinks, head + row, row < rows),
            out, out_q8, out_at + row, row < rows, head_dim, block_d,
        )  # fmt: skip
        return
    place = tl.program_id(0) * tl.num_programs(1) + tl.program_id(1)
    n_cells = tl.num_programs(0) * tl.num_programs(1) * tl.num_programs(2) * tile_heads
    cell = place * tl.num_programs(2) * tile_heads
    sums, tops = scratch + cell * head_dim, scratch + n_cells * head_dim + cell
    totals = tops + n_cells
    at, dim = split * tile_heads + row, tl.arange(0, block_d)
    tl.store(tops + at, top, row < rows)
    tl.store(totals + at, total, row < rows)
    mask = (row < rows)[:, None] & (dim < head_dim)[None, :]
    tl.store(sums + at[:, None] * head_dim + dim[None, :], acc, mask)
    tl.debug_barrier()  # every thread's stores come before the one that counts them
    if tl.atomic_add(counters + place, 1, sem="acq_rel", scope="gpu") != n_splits - 1:
        return
    tl.store(counters + place, 0)
    y = _merged(
        tops, totals, sums, n_splits, rows, sinks, head, tile_heads, head_dim, block_r, block_d,
        chunk,
    )  # fmt: skip
    row = tl.arange(0, block_r)
    store_rows(y, out, out_q8, out_at + row, row < rows, head_dim, block_d)
