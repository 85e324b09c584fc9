"""How the blocks of each weight format turn into float32 values, and back.

decode_* take whole blocks (n_blocks,) of the format's structured dtype (`formats.FORMATS`) and
give float32 (n_blocks, block_columns); encode_* do the reverse and take that dtype as well.  The
order of operations is ggml's reference order, so that results are the same to the bit.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Blocks = npt.NDArray[np.void]


# -- plain numbers: a block is one value -----------------------------------------------------


def decode_float(blocks: Any) -> Floats:
    """f32, f16 -> float32."""
    return _scale(blocks, "x")


def encode_float(values: Floats, dtype: np.dtype[np.void]) -> Blocks:
    """float32 -> f32, f16 (to nearest, ties to even)."""
    blocks = np.empty(len(values), dtype=dtype)
    blocks["x"] = values[:, 0]
    return blocks


def decode_bf16(blocks: Any) -> Floats:
    """bf16 -> float32: the upper half of its bits."""
    bits = blocks["x"].astype(np.uint32) << 16
    values: Floats = bits.view(np.float32)[:, None]
    return values


def encode_bf16(values: Floats, dtype: np.dtype[np.void]) -> Blocks:
    """float32 -> bf16, to nearest, ties to even."""
    bits = values.view(np.uint32)[:, 0]
    # A NaN is made quiet first, or the carry could turn it into infinity.
    is_nan = (bits & 0x7FFFFFFF) > 0x7F800000
    rounded = (bits.astype(np.uint64) + 0x7FFF + ((bits >> 16) & 1)) >> 16
    blocks = np.empty(len(values), dtype=dtype)
    blocks["x"] = np.where(is_nan, (bits >> 16) | 64, rounded)
    return blocks


# -- blocks of 32 values ---------------------------------------------------------------------


def _scale(blocks: Any, field: str = "d") -> Floats:
    """One number of each block, float32 (n_blocks, 1)."""
    scale: Floats = blocks[field].astype(np.float32)[:, None]
    return scale


def _fields(packed: Bytes, width_bits: int, group: int) -> Bytes:
    """Split bytes into fields of width_bits, (n_blocks, n_bytes) -> (n_blocks, n_values): the
    lowest fields of `group` bytes come first, then their next ones, then the next group.
    """
    shifts = np.arange(0, 8, width_bits, dtype=np.uint8)[:, None]
    parts = packed.reshape(len(packed), -1, 1, group) >> shifts
    mask = np.uint8((1 << width_bits) - 1)
    return (parts & mask).reshape(len(packed), -1)


def _inverse(scale: Floats) -> Floats:
    return np.where(scale == 0, np.float32(0), np.float32(1) / scale)


def _codes(values: Floats, highest: int) -> Bytes:
    """Truncate to whole codes in 0..highest; what is not finite becomes 0."""
    finite = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
    return np.clip(np.trunc(finite), 0, highest).astype(np.uint8)


def decode_q8_0(blocks: Any) -> Floats:
    """32 signed bytes times d."""
    values: Floats = blocks["qs"].astype(np.float32) * _scale(blocks)
    return values


def encode_q8_0(values: Floats, dtype: np.dtype[np.void]) -> Blocks:
    """float32 -> q8_0: d puts the largest magnitude at 127."""
    scale = np.abs(values).max(axis=1, keepdims=True) / np.float32(127)
    scaled = np.nan_to_num(values * _inverse(scale), nan=0.0, posinf=0.0, neginf=0.0)
    # C's roundf: halves go away from zero.  (floor(x + 0.5) would lift 0.49999997 to 1.)
    whole = np.trunc(scaled)
    rounded = whole + np.trunc(2 * (scaled - whole))
    blocks = np.empty(len(values), dtype=dtype)
    blocks["d"] = scale[:, 0]
    blocks["qs"] = rounded
    return blocks


def decode_q4_0(blocks: Any) -> Floats:
    """32 nibbles less 8, times d."""
    codes = _fields(blocks["qs"], 4, 16).astype(np.int8) - np.int8(8)
    return _scale(blocks) * codes.astype(np.float32)


def encode_q4_0(values: Floats, dtype: np.dtype[np.void]) -> Blocks:
    """float32 -> q4_0: d puts the value of the largest magnitude at code 0, which is -8."""
    largest = np.abs(values).argmax(axis=1, keepdims=True)
    scale = np.take_along_axis(values, largest, axis=1) / np.float32(-8)
    codes = _codes(values * _inverse(scale) + np.float32(8.5), 15)
    blocks = np.empty(len(values), dtype=dtype)
    blocks["d"] = scale[:, 0]
    blocks["qs"] = codes[:, :16] | codes[:, 16:] << 4
    return blocks


def decode_q4_1(blocks: Any) -> Floats:
    """32 nibbles times d, plus m."""
    codes = _fields(blocks["qs"], 4, 16).astype(np.float32)
    return _scale(blocks) * codes + _scale(blocks, "m")


def encode_q4_1(values: Floats, dtype: np.dtype[np.void]) -> Blocks:
    """float32 -> q4_1: m is the lowest value, d spreads 15 steps to the highest."""
    lowest = values.min(axis=1, keepdims=True)
    scale = (values.max(axis=1, keepdims=True) - lowest) / np.float32(15)
    codes = _codes((values - lowest) * _inverse(scale) + np.float32(0.5), 15)
    blocks = np.empty(len(values), dtype=dtype)
    blocks["d"] = scale[:, 0]
    blocks["m"] = lowest[:, 0]
    blocks["qs"] = codes[:, :16] | codes[:, 16:] << 4
    return blocks


def _codes_5bit(blocks: Any) -> Bytes:
    high = np.left_shift(_fields(blocks["qh"], 1, 1), 4, dtype=np.uint8)
    return _fields(blocks["qs"], 4, 16) | high


def decode_q5_0(blocks: Any) -> Floats:
    """32 five-bit codes less 16, times d."""
    codes = _codes_5bit(blocks).astype(np.int8) - np.int8(16)
    return _scale(blocks) * codes.astype(np.float32)


def decode_q5_1(blocks: Any) -> Floats:
    """32 five-bit codes times d, plus m."""
    return _scale(blocks) * _codes_5bit(blocks).astype(np.float32) + _scale(blocks, "m")


# -- super-blocks of 256 values, each with 8 or 16 small scales -------------------------------


def _spread(scales: Floats, codes: Any) -> tuple[Floats, Floats]:
    """Line up codes (n_blocks, 256) with scales (n_blocks, n_scales)."""
    n_blocks, n_scales = scales.shape
    return scales[:, :, None], codes.reshape(n_blocks, n_scales, -1).astype(np.float32)


def decode_q2_k(blocks: Any) -> Floats:
    """16 groups of 16 two-bit codes; a byte per group holds scale and minimum."""
    scales = _scale(blocks) * (blocks["scales"] & 0xF).astype(np.float32)
    minima = _scale(blocks, "dmin") * (blocks["scales"] >> 4).astype(np.float32)
    scale, codes = _spread(scales, _fields(blocks["qs"], 2, 32))
    values: Floats = scale * codes - minima[:, :, None]
    return values.reshape(len(blocks), 256)


def decode_q3_k(blocks: Any) -> Floats:
    """16 groups of 16 three-bit codes, from -4 to 3; six-bit scales less 32."""
    packed = blocks["scales"]
    low, high = _fields(packed[:, :8], 4, 8), _fields(packed[:, 8:], 2, 4)
    scales = (low | high << 4).astype(np.int8) - np.int8(32)
    # A set bit in hmask means that 4 is not subtracted.
    subtract = (_fields(blocks["hmask"], 1, 32) ^ 1) << 2
    codes = _fields(blocks["qs"], 2, 32).astype(np.int8) - subtract.astype(np.int8)
    scale, values = _spread(_scale(blocks) * scales.astype(np.float32), codes)
    return (scale * values).reshape(len(blocks), 256)


def _scales_and_minima(blocks: Any) -> tuple[Floats, Floats]:
    """Eight 6-bit scales and minima in 12 bytes: four of each whole in bytes 0..7, whose two
    highest bits complete the other four, the low nibbles of which are in bytes 8..11.
    """
    first, second, rest = blocks["scales"].reshape(-1, 3, 4).swapaxes(0, 1)
    scales = np.concatenate([first & 0x3F, (rest & 0xF) | (first >> 2 & 0x30)], axis=1)
    minima = np.concatenate([second & 0x3F, (rest >> 4) | (second >> 2 & 0x30)], axis=1)
    return (
        _scale(blocks) * scales.astype(np.float32),
        _scale(blocks, "dmin") * minima.astype(np.float32),
    )


def decode_q4_k(blocks: Any) -> Floats:
    """8 groups of 32 nibbles, each with a six-bit scale and minimum."""
    scales, minima = _scales_and_minima(blocks)
    scale, codes = _spread(scales, _fields(blocks["qs"], 4, 32))
    return (scale * codes - minima[:, :, None]).reshape(len(blocks), 256)


def decode_q5_k(blocks: Any) -> Floats:
    """As q4_k, with a fifth bit for every code in qh."""
    scales, minima = _scales_and_minima(blocks)
    codes = _fields(blocks["qs"], 4, 32) | _fields(blocks["qh"], 1, 32) << 4
    scale, values = _spread(scales, codes)
    return (scale * values - minima[:, :, None]).reshape(len(blocks), 256)


def decode_q6_k(blocks: Any) -> Floats:
    """16 groups of 16 six-bit codes less 32; signed bytes as scales."""
    codes = _fields(blocks["ql"], 4, 64) | _fields(blocks["qh"], 2, 32) << 4
    scales = _scale(blocks) * blocks["scales"].astype(np.float32)
    scale, values = _spread(scales, codes.astype(np.int8) - np.int8(32))
    return (scale * values).reshape(len(blocks), 256)
