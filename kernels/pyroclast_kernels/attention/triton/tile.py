"""A tile of query rows against a range of positions, in Triton: what decode and prefill share.

Rows are query heads of one group by tokens of one sequence.  block_n positions at a time their
scores meet the softmax so far: `top`, the largest score times scale (a power of two's exponent),
`total`, the sum of 2^(score * scale - top), and `acc`, that sum weighted with the values (Milakov
and Gimelshein 2018; the tiling of Dao et al. 2022).

Cells are read as attention/cache.py lays them out: a key tile is (head_dim, positions), a value
tile (positions, head_dim), and neither is transposed.  In bf16 a word of 32 bits holds two
dimensions of a key, or two positions of a value: a product of such tiles is that of the lower
halves plus that of the upper ones.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
from __future__ import annotations

import triton
import triton.language as tl

from pyroclast_kernels.attention.triton.steps import steps
from pyroclast_kernels.triton.math import tanh

_BLOCK = tl.constexpr(32)  # cache.BLOCK_SIZE
_LEAST_NORMAL = tl.constexpr(2.0**-126)
_LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def to_bf16(x):
    """float32 -> the nearest bfloat16, ties to even, as float32: what cache.to_bf16 keeps.  In
    integers, since the interpreter of Triton 3.6 cuts off instead of rounding."""
    bits = x.to(tl.int32, bitcast=True)
    rounded = bits + 0x7FFF + ((bits >> 16) & 1)
    rounded = tl.where(tl.abs(x) < _LEAST_NORMAL, bits & -2147483648, rounded)
    is_nan = (bits & 0x7FFFFFFF) > 0x7F800000
    rounded = tl.where(is_nan, bits | 0x400000, rounded)  # lest it become an infinity
    return (rounded & -65536).to(tl.float32, bitcast=True)


@triton.jit
def halves(words, dot_type: tl.constexpr):
    """int32 words -> the bfloat16 in their lower and in their upper halves."""
    low = (words << 16).to(tl.float32, bitcast=True)
    high = (words & -65536).to(tl.float32, bitcast=True)
    return low.to(dot_type), high.to(dot_type)


@triton.jit
def query_rows(
    qkv, at, mask, head_dim: tl.constexpr, block_d: tl.constexpr, dot_type: tl.constexpr,
    in_pairs: tl.constexpr,
):  # fmt: skip
    """Query heads that begin at qkv[at], at (rows,), as operands of a product: whole twice, or
    with in_pairs the even dimensions and the odd ones."""
    if in_pairs:
        dim = 2 * tl.arange(0, block_d // 2)[None, :]
        q_mask = mask[:, None] & (dim < head_dim)
        even = tl.load(qkv + at[:, None] + dim, mask=q_mask, other=0.0)
        odd = tl.load(qkv + at[:, None] + dim + 1, mask=q_mask, other=0.0)
        return to_bf16(even).to(dot_type), to_bf16(odd).to(dot_type)
    else:
        dim = tl.arange(0, block_d)[None, :]
        q = tl.load(qkv + at[:, None] + dim, mask=mask[:, None] & (dim < head_dim), other=0.0)
        return q.to(dot_type), q.to(dot_type)


@triton.jit
def _blocks(table, start, limit, n: tl.constexpr, per_block: tl.constexpr):
    """int64 (n,): the cache block of each cell of a tile that begins at position `start`, per_block
    of them to a block; block 0 for those from `limit` on.  Looked up one by one: a look-up of many
    would be a stage of its own in the pipeline."""
    first = table + start // _BLOCK
    cell, blocks = tl.arange(0, n), tl.full((n,), 0, tl.int64) + tl.load(first)
    for i in tl.static_range(1, n // per_block):
        block = tl.load(first + i, mask=start + i * _BLOCK < limit, other=0)
        blocks = tl.where(cell < i * per_block, blocks, block.to(tl.int64))
    return blocks


@triton.jit
def _keys(
    keys, blocks, n_kv_heads: tl.constexpr, rows: tl.constexpr, block_rows: tl.constexpr,
    block_n: tl.constexpr,
):  # fmt: skip
    """(block_rows, block_n): whole blocks, also where they hold positions nobody sees."""
    row, slot = tl.arange(0, block_rows)[:, None], tl.arange(0, block_n) % _BLOCK
    at = blocks[None, :] * (n_kv_heads * rows * _BLOCK) + (row * _BLOCK + slot[None, :])
    # The positions of a block lie side by side, which the compiler cannot know of a looked-up one.
    at = tl.max_contiguous(tl.multiple_of(at, (1, _BLOCK)), (1, _BLOCK))
    if rows == block_rows:
        return tl.load(keys + at)
    else:
        return tl.load(keys + at, mask=row < rows, other=0)


@triton.jit
def _values(
    values, blocks, seen, n_kv_heads: tl.constexpr, stride: tl.constexpr,
    head_dim: tl.constexpr, block_d: tl.constexpr, block_n: tl.constexpr, cells: tl.constexpr,
    masked: tl.constexpr,
):  # fmt: skip
    """(block_n, block_d), of a block's cells rows; zero where `seen` (block_n,) is not."""
    dim, cell = tl.arange(0, block_d)[None, :], tl.arange(0, block_n) % cells
    at = blocks[:, None] * (n_kv_heads * stride * cells) + (cell[:, None] * stride + dim)
    if masked:
        return tl.load(values + at, mask=seen[:, None] & (dim < head_dim), other=0)
    elif head_dim == block_d:
        return tl.load(values + at)
    else:
        return tl.load(values + at, mask=dim < head_dim, other=0)


@triton.jit
def _scores(q_a, q_b, k, dot_type: tl.constexpr, in_pairs: tl.constexpr):
    """float32 (rows, block_n)."""
    if in_pairs:
        even, odd = halves(k, dot_type)
        return tl.dot(q_b, odd, tl.dot(q_a, even))
    else:
        return tl.dot(q_a, k.to(dot_type), input_precision="ieee")


@triton.jit
def _weighted(acc, p, v_a, v_b, in_pairs: tl.constexpr):
    """acc + p . v."""
    if in_pairs:
        pairs: tl.constexpr = p.shape[1] // 2
        p_a, p_b = tl.split(tl.reshape(p.to(v_a.dtype), (p.shape[0], pairs, 2)))
        return tl.dot(p_b, v_b, tl.dot(p_a, v_a, acc))
    else:
        return tl.dot(p.to(v_a.dtype), v_a, acc, input_precision="ieee")


@triton.jit
def _tame(v):
    """(v with zeros for what is not finite, 1 for each position that held such a value)."""
    wild = ~(tl.abs(v) < float("inf"))
    return tl.where(wild, 0.0, v), tl.max(wild.to(tl.int32), axis=1)


@triton.jit
def no_sums(rows: tl.constexpr, block_d: tl.constexpr):
    """(acc, top, total) of rows that have seen nothing."""
    top = tl.full((rows,), float("-inf"), tl.float32)
    return tl.zeros((rows, block_d), tl.float32), top, tl.zeros((rows,), tl.float32)


@triton.jit
def attend(
    state, rows, cells, begin, end, scale, inner, n_kv_heads: tl.constexpr,
    head_dim: tl.constexpr, block_d: tl.constexpr, stride: tl.constexpr, block_n: tl.constexpr,
    dot_type: tl.constexpr, in_pairs: tl.constexpr, capped: tl.constexpr, masked: tl.constexpr,
    uneven: tl.constexpr, stages: tl.constexpr,
):  # fmt: skip
    """state = (acc, top, total) after the positions [begin, end), in steps of block_n from `begin`,
    a multiple of it.

    rows = (q_a, q_b, first, last): query_rows, and that a row sees first <= p <= last, both
    (rows, 1); uneven: they differ.  cells = (keys, values, table, lowest, limit): the cache at
    block 0 of the kv head, the sequence's blocks, and that no row sees a position outside
    [lowest, limit).  Without masked every row sees all of [begin, end).  capped: what scale
    multiplies is the tanh of inner times the scores.
    """
    acc, top, total = state
    q_a, q_b, first, last = rows
    keys, values, table, lowest, limit = cells
    pack: tl.constexpr = 2 if in_pairs else 1  # positions, or dimensions, in a word
    for start in steps(begin, end, block_n, num_stages=stages):
        k_blocks = _blocks(table, start, limit, block_n, _BLOCK)
        v_blocks = _blocks(table, start, limit, block_n // pack, _BLOCK // pack)
        k = _keys(keys, k_blocks, n_kv_heads, head_dim // pack, block_d // pack, block_n)
        even = start + pack * tl.arange(0, block_n // pack)
        odd = even + pack - 1
        even_seen, odd_seen = (even >= lowest) & (even < limit), (odd >= lowest) & (odd < limit)
        v = _values(
            values, v_blocks, even_seen | odd_seen, n_kv_heads, stride, head_dim, block_d,
            block_n // pack, _BLOCK // pack, masked,
        )  # fmt: skip
        x = _scores(q_a, q_b, k, dot_type, in_pairs)
        if capped:
            x = tanh(x * inner)
        if in_pairs:
            v_a, v_b = halves(v, dot_type)
        else:
            v_a, v_b = v.to(dot_type), v
        if masked:
            if in_pairs:
                v_a = tl.where(even_seen[:, None], v_a, 0.0)
                v_b = tl.where(odd_seen[:, None], v_b, 0.0)
            if uneven:
                # 0 times a NaN that only other rows see would be a NaN: it goes into the scores.
                v_a, wild = _tame(v_a)
                if in_pairs:
                    v_b, wild_b = _tame(v_b)
                    wild = tl.reshape(tl.join(wild, wild_b), (block_n,))
                x = tl.where(wild[None, :] > 0, float("nan"), x)
            position = (start + tl.arange(0, block_n))[None, :]
            x = tl.where((position >= first) & (position <= last), x, float("-inf"))
        risen = tl.maximum(top, tl.max(x, axis=1) * scale)
        # A row that has seen nothing yet keeps -inf, from which nothing may be subtracted.
        base = tl.where(risen == float("-inf"), 0.0, risen) if masked else risen
        p = tl.exp2(x * scale - base[:, None])
        less = tl.exp2(top - base)
        total = total * less + tl.sum(p, axis=1)
        acc = _weighted(acc * less[:, None], p, v_a, v_b, in_pairs)
        top = risen
    return acc, top, total


@triton.jit
def mean(acc, top, total, sinks, head, mask):
    """The weighted mean (rows, block_d) of what `attend` summed, with the sink of each row's query
    head `head` (rows,) in the softmax if there are any."""
    if sinks is not None:
        sink = tl.load(sinks + head, mask, 0.0) * _LOG2_E
        risen = tl.maximum(top, sink)
        less = tl.exp2(top - risen)
        total = total * less + tl.exp2(sink - risen)
        acc = acc * less[:, None]
    return acc / total[:, None]
