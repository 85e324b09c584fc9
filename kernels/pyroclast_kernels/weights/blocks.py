"""Blocks of quantized weights: from a file's bytes to codes and scales, and to packed bytes.

Between the two layouts stands `Blocks`: one unsigned code per column, and the numbers of the
header as arrays.  A file's bit fields are ggml's; the packed ones are those of codes.h.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyroclast_kernels.weights import formats, table_blocks

Array = NDArray[Any]

BLOCK = 32
SUPER = 256


@dataclass(frozen=True)
class Blocks:
    """Rows (n, n_headers * columns) taken apart: codes uint8 (n, n_headers, columns), halves
    float16 (n, n_headers, 1 or 2), of mxfp4 bfloat16 bits, and small (n, n_headers, 0, 8 or 16),
    integers as bytes."""

    codes: Array
    halves: Array
    small: Array


def named_halves(blocks: Any) -> Array:
    """The float16 numbers of a file's structured blocks."""
    names = [name for name in ("d", "dmin", "m") if name in (blocks.dtype.names or ())]
    return np.stack([blocks[name] for name in names], axis=-1)


@dataclass(frozen=True)
class Layout:
    """A block format: `columns` to a header of `n_halves` float16 numbers and `n_small` bytes,
    codes `bits` wide, of which `offset` is taken off; scales holds for 32 or 16 columns.

    read takes the structured blocks of a file (n, n_headers) to (codes, small); scales takes
    Blocks to (scale, minimum), float32 (n, n_headers, columns / scale_columns): a value is scale *
    (code - offset) + minimum, or scale * table[code] where there is a table.  read_halves takes
    the same blocks to the 16-bit numbers (n, n_headers, n_halves).
    """

    columns: int
    n_halves: int
    n_small: int
    bits: int
    offset: int
    scale_columns: int
    read: Callable[[Any], tuple[Array, Array]]
    scales: Callable[[Blocks], tuple[Array, Array]]
    table: tuple[int, ...] = ()
    read_halves: Callable[[Any], Array] = named_halves

    @property
    def has_nibbles(self) -> bool:
        """Whether codes are 4 bits of a number, which two blocks can share a byte for."""
        return self.bits == 4 and not self.table

    @property
    def header_bytes(self) -> int:
        """Bytes of one row's header."""
        return 2 * self.n_halves + self.n_small


def fields(packed: Array, width: int, group: int) -> Array:
    """Bytes (..., n_bytes) -> fields of `width` bits (..., n): the lowest of `group` bytes come
    first, then their next ones, then the next group."""
    shifts = np.arange(0, 8, width, dtype=np.uint8)[:, None]
    parts = packed.reshape(*packed.shape[:-1], -1, 1, group) >> shifts
    out: Array = (parts & np.uint8((1 << width) - 1)).reshape(*packed.shape[:-1], -1)
    return out


def read_blocks(raw: Array, format: str) -> Blocks:
    """Rows as they lie in a file, uint8 (n, row_bytes)."""
    layout = LAYOUTS[format]
    blocks = np.ascontiguousarray(raw).view(formats.FORMATS[format].dtype)
    codes, small = layout.read(blocks)
    return Blocks(codes, layout.read_halves(blocks), small)


def values_of(blocks: Blocks, format: str) -> tuple[Array, Array]:
    """(values, minimums), both float32 (n, n_cols).  minimums are the terms that kernels add apart
    from the products: m or -dmin * m."""
    layout = LAYOUTS[format]
    n, n_headers, _ = blocks.codes.shape
    codes = blocks.codes.reshape(n, n_headers, -1, layout.scale_columns)
    with np.errstate(invalid="ignore", over="ignore"):
        scale, minimum = (x[..., None] for x in layout.scales(blocks))
        values = scale * _integers(codes, layout).astype(np.float32) + minimum
    return values.reshape(n, -1), np.broadcast_to(minimum, values.shape).reshape(n, -1)


def _integers(codes: Array, layout: Layout) -> Array:
    if layout.table:
        return np.array(layout.table, np.int8)[codes]
    out: Array = codes.astype(np.int16) - layout.offset
    return out


# ---- packed codes: quads of 4 columns, one vector of 16 rows after another (codes.h) -------------


def quant_bytes(bits: int) -> int:
    """Bytes of one row and block of 32 columns."""
    return BLOCK * bits // 8


def pack_codes(codes: Array, bits: int) -> Array:
    """uint8 (..., 32) -> uint8 (..., n_vectors, 4), the quad of one row in each vector."""
    quads = codes.reshape(*codes.shape[:-1], 8, 4)
    if bits == 8:
        return quads
    if bits < 4:
        parts = [_planes(quads, 2, 0)]
    else:
        parts = [(quads[..., :4, :] & np.uint8(15)) | quads[..., 4:, :] << np.uint8(4)]
    low = 4 if bits >= 4 else 2
    if bits > low:
        high = _planes(quads, bits - low, low)
        parts = [high[..., :1, :], *parts, high[..., 1:, :]]
    return np.concatenate(parts, axis=-2)


def unpack_codes(packed: Array, bits: int) -> Array:
    """The inverse of pack_codes."""
    if bits == 8:
        return packed.reshape(*packed.shape[:-2], BLOCK)
    low = 4 if bits >= 4 else 2
    first = 1 if bits > low else 0
    middle, last = packed[..., first : first + low, :], packed[..., first + low :, :]
    if bits < 4:
        quads = _unpack_planes(middle, 2)
    else:
        quads = np.concatenate([middle & np.uint8(15), middle >> np.uint8(4)], axis=-2)
    if bits > low:
        high = np.concatenate([packed[..., :1, :], last], axis=-2)
        quads = quads | _unpack_planes(high, bits - low) << np.uint8(low)
    return quads.reshape(*packed.shape[:-2], BLOCK)


def _planes(quads: Array, width: int, start: int) -> Array:
    """Bits [start, start + width) of quads (..., 8, 4): 8 / width quads to a plane."""
    bits = (quads >> np.uint8(start)) & np.uint8((1 << width) - 1)
    bits = bits.reshape(*quads.shape[:-2], width, 8 // width, 4)
    shifts = np.arange(0, 8, width, dtype=np.uint8)[:, None]
    out: Array = np.bitwise_or.reduce(bits << shifts, axis=-2)
    return out


def _unpack_planes(planes: Array, width: int) -> Array:
    shifts = np.arange(0, 8, width, dtype=np.uint8)[:, None]
    bits = (planes[..., None, :] >> shifts) & np.uint8((1 << width) - 1)
    out: Array = bits.reshape(*planes.shape[:-2], 8, 4)
    return out


# ---- the formats -------------------------------------------------------------------------------


def _none(blocks: Any) -> Array:
    return np.zeros((*blocks.shape, 0), np.uint8)


def _read_q8_0(blocks: Any) -> tuple[Array, Array]:
    return blocks["qs"].view(np.uint8) ^ np.uint8(128), _none(blocks)


def _read_nibbles(blocks: Any) -> tuple[Array, Array]:
    return fields(blocks["qs"], 4, 16), _none(blocks)


def _read_five_bits(blocks: Any) -> tuple[Array, Array]:
    return fields(blocks["qs"], 4, 16) | fields(blocks["qh"], 1, 1) << np.uint8(4), _none(blocks)


def _read_q2_k(blocks: Any) -> tuple[Array, Array]:
    return fields(blocks["qs"], 2, 32), blocks["scales"]


def _read_q3_k(blocks: Any) -> tuple[Array, Array]:
    codes = fields(blocks["qs"], 2, 32) | fields(blocks["hmask"], 1, 32) << np.uint8(2)
    packed = blocks["scales"]
    scales = fields(packed[..., :8], 4, 8) | fields(packed[..., 8:], 2, 4) << np.uint8(4)
    return codes, scales - np.uint8(32)  # wraps: a signed byte


def _scales_and_minimums(blocks: Any) -> Array:
    """Eight 6-bit scales, then eight minimums: four of each whole in bytes 0..7, whose two highest
    bits complete the other four, the low nibbles of which are in bytes 8..11."""
    packed = blocks["scales"]
    whole, rest = packed[..., :8], packed[..., 8:]
    high = whole >> np.uint8(2) & np.uint8(48)
    first, low = (
        whole & np.uint8(63),
        np.concatenate([rest & np.uint8(15), rest >> np.uint8(4)], -1),
    )
    last = low | high
    return np.concatenate([first[..., :4], last[..., :4], first[..., 4:], last[..., 4:]], axis=-1)


def _read_q4_k(blocks: Any) -> tuple[Array, Array]:
    return fields(blocks["qs"], 4, 32), _scales_and_minimums(blocks)


def _read_q5_k(blocks: Any) -> tuple[Array, Array]:
    codes = fields(blocks["qs"], 4, 32) | fields(blocks["qh"], 1, 32) << np.uint8(4)
    return codes, _scales_and_minimums(blocks)


def _read_q6_k(blocks: Any) -> tuple[Array, Array]:
    codes = fields(blocks["ql"], 4, 64) | fields(blocks["qh"], 2, 32) << np.uint8(4)
    return codes, blocks["scales"].view(np.uint8)


def _float(halves: Array) -> Array:
    return halves.astype(np.float32)


def _scale_only(blocks: Blocks) -> tuple[Array, Array]:
    scale = _float(blocks.halves)
    return scale, np.zeros_like(scale)


def _scale_and_minimum(blocks: Blocks) -> tuple[Array, Array]:
    return _float(blocks.halves[..., :1]), _float(blocks.halves[..., 1:])


def _signed_scales(blocks: Blocks) -> tuple[Array, Array]:
    scale = _float(blocks.halves) * blocks.small.view(np.int8).astype(np.float32)
    return scale, np.zeros_like(scale)


def _eighths(blocks: Blocks) -> tuple[Array, Array]:
    scale, minimum = _signed_scales(blocks)
    return scale * np.float32(0.125), minimum


def _power_of_two(blocks: Blocks) -> tuple[Array, Array]:
    scale = table_blocks.bfloat(blocks.halves)
    return scale, np.zeros_like(scale)


def _eight_and_eight(blocks: Blocks) -> tuple[Array, Array]:
    d, dmin = _scale_and_minimum(blocks)
    small = blocks.small.astype(np.float32)
    return d * small[..., :8], -(dmin * small[..., 8:])


def _scale_and_minimum_nibbles(blocks: Blocks) -> tuple[Array, Array]:
    d, dmin = _scale_and_minimum(blocks)
    return (
        d * (blocks.small & np.uint8(15)).astype(np.float32),
        -(dmin * (blocks.small >> np.uint8(4)).astype(np.float32)),
    )


def _table(
    format: str,
    columns: int,
    n_small: int,
    scale_columns: int,
    read: Callable[[Any], tuple[Array, Array]],
    scales: Callable[[Blocks], tuple[Array, Array]],
) -> Layout:
    table = table_blocks.TABLES[format]
    return Layout(columns, 1, n_small, 4, 0, scale_columns, read, scales, table)


LAYOUTS = {
    "q8_0": Layout(BLOCK, 1, 0, 8, 128, BLOCK, _read_q8_0, _scale_only),
    "q4_0": Layout(BLOCK, 1, 0, 4, 8, BLOCK, _read_nibbles, _scale_only),
    "q4_1": Layout(BLOCK, 2, 0, 4, 0, BLOCK, _read_nibbles, _scale_and_minimum),
    "q5_0": Layout(BLOCK, 1, 0, 5, 16, BLOCK, _read_five_bits, _scale_only),
    "q5_1": Layout(BLOCK, 2, 0, 5, 0, BLOCK, _read_five_bits, _scale_and_minimum),
    "q2_k": Layout(SUPER, 2, 16, 2, 0, 16, _read_q2_k, _scale_and_minimum_nibbles),
    "q3_k": Layout(SUPER, 1, 16, 3, 4, 16, _read_q3_k, _signed_scales),
    "q4_k": Layout(SUPER, 2, 16, 4, 0, BLOCK, _read_q4_k, _eight_and_eight),
    "q5_k": Layout(SUPER, 2, 16, 5, 0, BLOCK, _read_q5_k, _eight_and_eight),
    "q6_k": Layout(SUPER, 1, 16, 6, 32, 16, _read_q6_k, _signed_scales),
    "iq4_nl": _table("iq4_nl", BLOCK, 0, BLOCK, table_blocks.read_32, _scale_only),
    "iq4_xs": _table("iq4_xs", SUPER, 8, BLOCK, table_blocks.read_iq4_xs, _signed_scales),
    "iq3_s": _table("iq3_s", SUPER, 8, BLOCK, table_blocks.read_iq3_s, _signed_scales),
    "mxfp4": replace(
        _table("mxfp4", BLOCK, 0, BLOCK, table_blocks.read_32, _power_of_two),
        read_halves=table_blocks.e8m0_halves,
    ),
    "t4_k": _table("t4_k", SUPER, 16, 16, table_blocks.read_t4_k, _eighths),
}
