"""Quantizing to every format that can be written: what `formats` rounds, and those whose scales
are searched (the K formats) or that no load-time conversion makes (q5_0, q5_1).

A K format is encoded in three steps, each over all groups at once: for every group of 16 or 32
values try several scales, and keep the one whose least-squares fit has the smallest weighted error;
round the scales of a block to the few bits that they have; choose the codes again for the rounded
scales.  The candidates and weights are those of ggml's encoders, which search likewise.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from pyroclast_kernels.errors import KernelError
from pyroclast_kernels.weights import formats
from pyroclast_kernels.weights.block_codecs import Blocks, Bytes, Floats

_SUPER = 256
_GROUP_VALUES = 1 << 17  # temporaries stay in the cache


def encodable_formats() -> list[str]:
    """The names that encode() accepts."""
    return [name for name in formats.FORMATS if name in ENCODERS or _is_rounded(name)]


def encode(values: Floats, format_name: str) -> Bytes:
    """Values (n_rows, n_cols) float32 -> uint8 (n_rows, row_bytes).  A block with NaN or infinity
    gets a non-finite scale, so that the damage stays visible."""
    layout = formats.get_format(format_name)
    if format_name not in ENCODERS:
        if not _is_rounded(format_name):
            raise KernelError(
                f"cannot encode {format_name}; supported: {', '.join(encodable_formats())}"
            )
        return formats.quantize(values, format_name)
    n_rows, n_cols = values.shape
    out = np.empty((n_rows, formats.row_bytes(n_cols, format_name)), dtype=np.uint8)
    blocks = np.ascontiguousarray(values, np.float32).reshape(-1, layout.block_columns)
    encoded = out.reshape(-1, layout.block_bytes)
    step = _GROUP_VALUES // layout.block_columns
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        for start in range(0, len(blocks), step):
            group = blocks[start : start + step]
            bad = np.flatnonzero(~np.isfinite(group).all(axis=1))
            if len(bad):
                group = group.copy()
                group[bad] = 0
            made = np.empty(len(group), layout.dtype)
            ENCODERS[format_name](group, made)
            made["d"][bad] = np.nan
            encoded[start : start + step] = made.view(np.uint8).reshape(len(group), -1)
    return out


def _is_rounded(format_name: str) -> bool:
    return formats.FORMATS[format_name].encode is not None


def _inverse(scale: Floats) -> Floats:
    return np.where(scale == 0, np.float32(0), np.float32(1) / scale)


def _stored(values: Floats, blocks: Blocks, field: str) -> Floats:
    """Writes one number a block as float16, and returns what a reader will find."""
    blocks[field] = values
    stored: Floats = blocks[field].astype(np.float32)
    return stored


# -- packing of codes: the inverse of block_codecs._fields -----------------------------------------


def _pack(codes: Any, width_bits: int, group: int) -> Bytes:
    """Codes (n, n_values) of width_bits -> bytes: `group` values give the lowest fields of as many
    bytes, the next ones their next fields, then the next bytes."""
    per_byte = 8 // width_bits
    fields = codes.astype(np.uint8).reshape(len(codes), -1, per_byte, group)
    shifts = np.arange(0, 8, width_bits, dtype=np.uint8)[:, None]
    packed: Bytes = np.bitwise_or.reduce(fields << shifts, axis=2).reshape(len(codes), -1)
    return packed


# -- q5_0, q5_1: as ggml rounds ----------------------------------------------------------------


def _truncated(values: Floats) -> Bytes:
    return np.clip(np.trunc(values), 0, 31).astype(np.uint8)


def _put_five_bits(codes: Bytes, blocks: Blocks) -> None:
    blocks["qs"] = _pack(codes & 15, 4, 16)
    blocks["qh"] = _pack(codes >> 4, 1, 1)


def _encode_q5_0(values: Floats, blocks: Blocks) -> None:
    largest = np.abs(values).argmax(axis=1, keepdims=True)
    scale = np.take_along_axis(values, largest, axis=1) / np.float32(-16)
    blocks["d"] = scale[:, 0]
    _put_five_bits(_truncated(values * _inverse(scale) + np.float32(16.5)), blocks)


def _encode_q5_1(values: Floats, blocks: Blocks) -> None:
    lowest = values.min(axis=1, keepdims=True)
    scale = (values.max(axis=1, keepdims=True) - lowest) / np.float32(31)
    blocks["d"], blocks["m"] = scale[:, 0], lowest[:, 0]
    _put_five_bits(_truncated((values - lowest) * _inverse(scale) + np.float32(0.5)), blocks)


# -- the search for scales ---------------------------------------------------------------------


def _search_affine(
    x: Floats, weights: Floats, highest: int, first: float, n_steps: int
) -> tuple[Floats, Floats]:
    """x and weights (n_groups, size) -> scale and minimum >= 0, both (n_groups,), such that
    scale * code - minimum with codes 0..highest is near x.  Candidate i spreads
    highest + first + i / 10 codes over the range of x."""
    lowest = np.minimum(x.min(axis=1, keepdims=True), 0)
    spread = x.max(axis=1, keepdims=True) - lowest
    shifted, inverse = x - lowest, _inverse(spread)
    sum_w, sum_x = weights.sum(axis=1), np.einsum("ng,ng->n", weights, x)
    best_scale, best_minimum = spread[:, 0] / np.float32(highest), lowest[:, 0].copy()
    best_gain = np.full(len(x), -np.inf, np.float32)
    codes = np.empty_like(x)
    for steps in [0.0, *(first + i / 10 for i in range(n_steps + 1))]:
        np.multiply(shifted, inverse * np.float32(highest + steps), out=codes)
        np.rint(codes, out=codes)
        np.clip(codes, 0, highest, out=codes)
        weighted = codes * weights
        sum_l = weighted.sum(axis=1)
        sum_l2 = np.einsum("ng,ng->n", weighted, codes)
        sum_xl = np.einsum("ng,ng->n", weighted, x)
        scale = (sum_w * sum_xl - sum_x * sum_l) / (sum_w * sum_l2 - sum_l * sum_l)
        minimum = (sum_l2 * sum_x - sum_l * sum_xl) / (sum_w * sum_l2 - sum_l * sum_l)
        positive = minimum > 0  # a file stores only what is subtracted
        scale = np.where(positive, sum_xl / sum_l2, scale)
        minimum = np.where(positive, np.float32(0), minimum)
        # How far the weighted squared error is below that of zeros; with the best fit of these
        # codes it is the dot product of the fit with (sum_xl, sum_x).
        gain = scale * sum_xl + minimum * sum_x
        better = gain > best_gain
        best_gain[better] = gain[better]
        best_scale[better], best_minimum[better] = scale[better], minimum[better]
    return np.maximum(best_scale, 0), -best_minimum


def _search_symmetric(x: Floats, half: int) -> Floats:
    """x (n_groups, size) -> scale (n_groups,) such that scale * code with codes -half..half - 1 is
    near x, errors weighted by x * x."""
    weights = x * x
    largest = np.abs(x).argmax(axis=1, keepdims=True)
    inverse = _inverse(np.take_along_axis(x, largest, axis=1))
    best_scale, best_gain = np.zeros(len(x), np.float32), np.zeros(len(x), np.float32)
    codes = np.empty_like(x)
    for i in range(-9, 10):
        np.multiply(x, inverse * np.float32(-(half + i / 10)), out=codes)
        np.rint(codes, out=codes)
        np.clip(codes, -half, half - 1, out=codes)
        weighted = codes * weights
        sum_xl = np.einsum("ng,ng->n", weighted, x)
        sum_l2 = np.einsum("ng,ng->n", weighted, codes)
        gain = sum_xl * sum_xl / sum_l2
        better = gain > best_gain
        best_gain[better] = gain[better]
        best_scale[better] = (sum_xl / sum_l2)[better]
    return best_scale


def _levels(scales: Floats, highest: int) -> tuple[Floats, Floats]:
    """Scales >= 0 (n_blocks, n) -> the step of each block, and whole numbers 0..highest of it."""
    step = scales.max(axis=1) / np.float32(highest)
    levels: Floats = np.rint(scales * _inverse(step)[:, None])
    return step, np.clip(levels, 0, highest)


def _affine_codes(
    values: Floats, blocks: Blocks, highest: int, n_groups: int, level: int, search: Any
) -> tuple[Bytes, Bytes, Bytes]:
    """Scales, minimums (n_blocks, n_groups) and codes (n_blocks, 256) of q2_k, q4_k, q5_k; d and
    dmin are put into the blocks."""
    x = values.reshape(-1, _SUPER // n_groups)
    scales, minimums = (each.reshape(-1, n_groups) for each in search(x))
    step, scale_levels = _levels(scales, level)
    min_step, min_levels = _levels(minimums, level)
    scale = (_stored(step, blocks, "d")[:, None] * scale_levels).reshape(-1, 1)
    minimum = (_stored(min_step, blocks, "dmin")[:, None] * min_levels).reshape(-1, 1)
    codes = np.clip(np.rint((x + minimum) * _inverse(scale)), 0, highest)
    as_bytes = (each.astype(np.uint8) for each in (scale_levels, min_levels))
    return (*as_bytes, codes.astype(np.uint8).reshape(-1, _SUPER))  # type: ignore[return-value]


def _symmetric_codes(values: Floats, blocks: Blocks, half: int, level: int) -> tuple[Floats, Bytes]:
    """Scales (n_blocks, 16), -level..level - 1, and codes + half (n_blocks, 256) of q3_k, q6_k; d
    is put into the blocks."""
    x = values.reshape(-1, 16)
    scales = _search_symmetric(x, half).reshape(-1, 16)
    largest = np.abs(scales).argmax(axis=1, keepdims=True)
    # The scale of the largest magnitude takes the lowest level, of which there is one more.
    step = np.take_along_axis(scales, largest, axis=1) / np.float32(-level)
    levels = np.clip(np.rint(scales * _inverse(step)), -level, level - 1)
    scale = (_stored(step[:, 0], blocks, "d")[:, None] * levels).reshape(-1, 1)
    codes = np.clip(np.rint(x * _inverse(scale)), -half, half - 1) + half
    return levels, codes.astype(np.uint8).reshape(-1, _SUPER)


# -- K formats -----------------------------------------------------------------------------------


def _search_of_32(highest: int, first: float, n_steps: int) -> Callable[[Floats], Any]:
    """The search of q4_k and q5_k: values count by their own size and that of their group."""

    def search(x: Floats) -> tuple[Floats, Floats]:
        size = np.sqrt(np.einsum("ng,ng->n", x, x) / np.float32(x.shape[1]))[:, None]
        return _search_affine(x, size + np.abs(x), highest, first, n_steps)

    return search


def _put_scales_and_minimums(scales: Bytes, minimums: Bytes, blocks: Blocks) -> None:
    """Eight pairs of 6 bits in 12 bytes: see block_codecs._scales_and_minima."""
    low = [part[:, :4] | (part[:, 4:] >> 4) << 6 for part in (scales, minimums)]
    rest = (scales[:, 4:] & 15) | (minimums[:, 4:] & 15) << 4
    blocks["scales"] = np.concatenate([*low, rest], axis=1)


def _encode_q4_k(values: Floats, blocks: Blocks) -> None:
    search = _search_of_32(15, -1.0, 20)
    scales, minimums, codes = _affine_codes(values, blocks, 15, 8, 63, search)
    _put_scales_and_minimums(scales, minimums, blocks)
    blocks["qs"] = _pack(codes, 4, 32)


def _encode_q5_k(values: Floats, blocks: Blocks) -> None:
    search = _search_of_32(31, -0.5, 15)
    scales, minimums, codes = _affine_codes(values, blocks, 31, 8, 63, search)
    _put_scales_and_minimums(scales, minimums, blocks)
    blocks["qs"] = _pack(codes & 15, 4, 32)
    blocks["qh"] = _pack(codes >> 4, 1, 32)


def _encode_q2_k(values: Floats, blocks: Blocks) -> None:
    def search(x: Floats) -> tuple[Floats, Floats]:
        return _search_affine(x, np.abs(x), 3, -0.5, 15)

    scales, minimums, codes = _affine_codes(values, blocks, 3, 16, 15, search)
    blocks["scales"] = scales | minimums << 4
    blocks["qs"] = _pack(codes, 2, 32)


def _encode_q3_k(values: Floats, blocks: Blocks) -> None:
    levels, codes = _symmetric_codes(values, blocks, 4, 32)
    scales = (levels + 32).astype(np.uint8)
    blocks["scales"] = np.concatenate([_pack(scales & 15, 4, 8), _pack(scales >> 4, 2, 4)], axis=1)
    blocks["qs"] = _pack(codes & 3, 2, 32)
    blocks["hmask"] = _pack(codes >> 2, 1, 32)


def _encode_q6_k(values: Floats, blocks: Blocks) -> None:
    blocks["scales"], codes = _symmetric_codes(values, blocks, 32, 128)
    blocks["ql"] = _pack(codes & 15, 4, 64)
    blocks["qh"] = _pack(codes >> 4, 2, 32)


ENCODERS: dict[str, Callable[[Floats, Blocks], None]] = {
    "q5_0": _encode_q5_0,
    "q5_1": _encode_q5_1,
    "q2_k": _encode_q2_k,
    "q3_k": _encode_q3_k,
    "q4_k": _encode_q4_k,
    "q5_k": _encode_q5_k,
    "q6_k": _encode_q6_k,
}
