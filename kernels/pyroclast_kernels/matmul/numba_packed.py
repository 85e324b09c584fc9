"""The packed weight layout of packed.h for Numba: where the scales and quants of a block are."""

from __future__ import annotations

from typing import Any

from pyroclast_kernels.numba_simd import high_nibbles, inline, load_i32x16, low_nibbles

BLOCK = 32  # columns
# Bytes of a block of 16 rows (scales, and q4_1's minimums; quants), and of one row in the file.
Q8_0_SCALES, Q8_0_QUANTS, Q8_0_FILE = 32, 512, 34
Q4_0_SCALES, Q4_0_QUANTS, Q4_0_FILE = 32, 256, 18
Q4_1_SCALES, Q4_1_QUANTS, Q4_1_FILE = 64, 256, 20


@inline
def scales_offset(b: int, scale_bytes: int, quant_bytes: int) -> int:
    """Where the scales of block b are in a group: 64 bytes of them lie before the blocks that they
    belong to, one or two."""
    twice = 1 if scale_bytes == 32 else 0
    return (b >> twice) * (64 + (quant_bytes << twice)) + (b & twice) * scale_bytes


@inline
def quants_offset(b: int, scale_bytes: int, quant_bytes: int) -> int:
    """Where the quants of block b are in a group."""
    twice = 1 if scale_bytes == 32 else 0
    return ((b >> twice) + 1) * 64 + b * quant_bytes


@inline
def block_group_bytes(n_cols: int, scale_bytes: int, quant_bytes: int) -> int:
    """Bytes of 16 rows of a block format."""
    return quants_offset(n_cols // BLOCK - 1, scale_bytes, quant_bytes) + quant_bytes


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
