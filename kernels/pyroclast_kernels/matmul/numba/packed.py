"""The packed weight layout of packed.h for Numba: where the scales and quants of a block are."""

from __future__ import annotations

from typing import Any

from pyroclast_kernels.numba.simd import (
    at,
    high_nibbles,
    inline,
    load_i32x16,
    look_up,
    low_nibbles,
)
from pyroclast_kernels.weights.table_blocks import TABLES

BLOCK = 32  # columns
# Block formats: how many blocks a chunk has, how long the header before them is, and the quants of
# a block.  A header has each block's scales (q4_1: and minimums), float16; that of q4_k d and dmin,
# float16, 8 scales from byte 64 on and 8 minimums from 192 on, a byte each.
Q8_0, Q4_0, Q4_1, Q4_K = (2, 64, 512), (2, 64, 256), (1, 64, 256), (8, 320, 256)
# iq4_xs and iq3_s: two headers for 16 blocks, each d, float16, and 8 signed scales from byte 32 on.
SUPER_OF_8 = (16, 320, 256)


@inline
def block_group_bytes(n_cols: int, layout: Any) -> int:
    """Bytes of 16 rows of a block format; the last chunk may lack blocks, its header not."""
    n_blocks, (per_chunk, header_bytes, quant_bytes) = n_cols // BLOCK, layout
    n_chunks: int = (n_blocks + per_chunk - 1) // per_chunk
    return n_chunks * int(header_bytes) + n_blocks * int(quant_bytes)


@inline
def find(group: Any, b: int, layout: Any) -> Any:
    """((the header of block b, which of its blocks that is), its quants)."""
    per_chunk, header_bytes, quant_bytes = layout
    chunk = b // per_chunk
    header = at(group, chunk * (header_bytes + per_chunk * quant_bytes))
    return (header, b % per_chunk), at(group, (chunk + 1) * header_bytes + b * quant_bytes)


@inline
def value_group_bytes(n_cols: int, value_bytes: int) -> int:
    """Bytes of 16 rows of plain values."""
    return (n_cols * 16 * value_bytes + 63) // 64 * 64


@inline
def load_bytes(quants: Any) -> Any:
    """A block of 16 rows as 8 vectors of 4 columns each: q8_0, stored with +128."""
    return (
        load_i32x16(quants, 0), load_i32x16(quants, 64),
        load_i32x16(quants, 128), load_i32x16(quants, 192),
        load_i32x16(quants, 256), load_i32x16(quants, 320),
        load_i32x16(quants, 384), load_i32x16(quants, 448),
    )  # fmt: skip


@inline
def load_nibbles(quants: Any) -> Any:
    """The same of q4_0 and q4_1: low nibbles are columns 0..15, high ones 16..31."""
    a, b = load_i32x16(quants, 0), load_i32x16(quants, 64)
    c, d = load_i32x16(quants, 128), load_i32x16(quants, 192)
    return (
        low_nibbles(a), low_nibbles(b), low_nibbles(c), low_nibbles(d),
        high_nibbles(a), high_nibbles(b), high_nibbles(c), high_nibbles(d),
    )  # fmt: skip


_non_linear = look_up(tuple(v + 128 for v in TABLES["iq4_nl"]))
_e2m1 = look_up(tuple(v + 16 for v in TABLES["mxfp4"]))
_odd_numbers = look_up(tuple(v + 16 for v in TABLES["iq3_s"]))


@inline
def _each(function: Any, q: Any) -> Any:
    return (
        function(q[0]), function(q[1]), function(q[2]), function(q[3]),
        function(q[4]), function(q[5]), function(q[6]), function(q[7]),
    )  # fmt: skip


@inline
def load_non_linear(quants: Any) -> Any:
    """iq4_nl and iq4_xs: the values that nibbles name, + 128."""
    return _each(_non_linear, load_nibbles(quants))


@inline
def load_e2m1(quants: Any) -> Any:
    """mxfp4: the values + 16."""
    return _each(_e2m1, load_nibbles(quants))


@inline
def load_odd_numbers(quants: Any) -> Any:
    """iq3_s: the values + 16."""
    return _each(_odd_numbers, load_nibbles(quants))
