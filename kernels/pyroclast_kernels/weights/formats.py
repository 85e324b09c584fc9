"""Weight formats as they lie on disk: block layouts, dequantization, quantization.

A matrix (n_rows, n_cols) is stored row by row; a row is n_cols / block_columns blocks one after the
other, little endian.  The layouts are those of ggml (as in GGUF files); dequantize() follows
ggml's reference order of operations, so that its float32 results are the same to the bit.
This is the truth that packed kernels are tested against, not a fast path.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from pyroclast_kernels.errors import KernelError
from pyroclast_kernels.weights import block_codecs as codecs
from pyroclast_kernels.weights.block_codecs import Blocks, Bytes, Floats
from pyroclast_kernels.weights.codebook_codecs import CODECS

_Decode = Callable[[Any], Floats]
_Encode = Callable[[Floats, "np.dtype[np.void]"], Blocks]

# Rows are converted in groups of about this many values, so that temporaries stay in the cache.
_GROUP_VALUES = 1 << 18


@dataclass(frozen=True)
class Format:
    """One format: block_columns values take block_bytes bytes, laid out as `dtype`.

    ggml_type is its number in a GGUF file, None if it has none.  decode and encode work on whole
    blocks (n_blocks,) of `dtype` <-> float32 (n_blocks, block_columns); encode is None where only
    reading is supported.
    """

    name: str
    block_columns: int
    block_bytes: int
    ggml_type: int | None
    dtype: np.dtype[np.void]
    decode: _Decode
    encode: _Encode | None


def row_bytes(n_cols: int, format_name: str) -> int:
    """Bytes of one row of n_cols values; n_cols must be a multiple of the format's block size."""
    layout = get_format(format_name)
    if n_cols < 1 or n_cols % layout.block_columns:
        raise KernelError(
            f"a row in {format_name} must hold a multiple of {layout.block_columns} values, "
            f"got {n_cols}"
        )
    return n_cols // layout.block_columns * layout.block_bytes


def dequantize(raw: Bytes, format_name: str) -> Floats:
    """Raw (n_rows, row_bytes) uint8 -> float32 (n_rows, n_cols)."""
    layout = get_format(format_name)
    n_rows, n_bytes = raw.shape
    if raw.dtype != np.uint8 or n_bytes % layout.block_bytes:
        raise KernelError(
            f"rows in {format_name} must be uint8, a multiple of {layout.block_bytes} bytes long; "
            f"got {raw.dtype} rows of {n_bytes} bytes"
        )
    n_cols = n_bytes // layout.block_bytes * layout.block_columns
    out = np.empty((n_rows, n_cols), dtype=np.float32)
    step = max(1, _GROUP_VALUES // max(1, n_cols))
    # A damaged file may hold infinite scales: inf * 0 is NaN here as in ggml, and no warning.
    with np.errstate(invalid="ignore", over="ignore"):
        for start in range(0, n_rows, step):
            group = np.ascontiguousarray(raw[start : start + step])
            values = layout.decode(group.reshape(-1).view(layout.dtype))
            out[start : start + step] = values.reshape(-1, n_cols)
    return out


def quantize(values: Floats, format_name: str) -> Bytes:
    """Values (n_rows, n_cols) float32 -> uint8 (n_rows, row_bytes), rounded as ggml rounds.

    A block with NaN or infinity gets a non-finite scale, so that the damage stays visible.
    """
    layout = get_format(format_name)
    if layout.encode is None:
        raise KernelError(
            f"cannot quantize to {format_name}; supported: {', '.join(quantizable_formats())}"
        )
    n_rows, n_cols = values.shape
    out = np.empty((n_rows, row_bytes(n_cols, format_name)), dtype=np.uint8)
    step = max(1, _GROUP_VALUES // n_cols)
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        for start in range(0, n_rows, step):
            group = np.ascontiguousarray(values[start : start + step], dtype=np.float32)
            blocks = layout.encode(group.reshape(-1, layout.block_columns), layout.dtype)
            out[start : start + step] = blocks.view(np.uint8).reshape(-1, out.shape[1])
    return out


def get_format(format_name: str) -> Format:
    """The layout of that name; an unknown name is an error that lists the known ones."""
    if format_name not in FORMATS:
        raise KernelError(f"unknown weight format {format_name!r}; known: {', '.join(FORMATS)}")
    return FORMATS[format_name]


def quantizable_formats() -> list[str]:
    """The names that quantize() accepts."""
    return [name for name, layout in FORMATS.items() if layout.encode is not None]


def _format(
    name: str,
    block_columns: int,
    ggml_type: int | None,
    fields: list[Any],
    decode: _Decode,
    encode: _Encode | None = None,
) -> Format:
    dtype = np.dtype(fields)
    return Format(name, block_columns, dtype.itemsize, ggml_type, dtype, decode, encode)


_D, _M, _DMIN = ("d", "<f2"), ("m", "<f2"), ("dmin", "<f2")


def _bytes(name: str, count: int) -> tuple[str, str, int]:
    return name, "u1", count


def _codebook(name: str, block_columns: int, ggml_type: int | None, *fields: Any) -> Format:
    return _format(name, block_columns, ggml_type, list(fields), CODECS[name].decode)


FORMATS: dict[str, Format] = {
    entry.name: entry
    for entry in (
        _format("f32", 1, 0, [("x", "<f4")], codecs.decode_float, codecs.encode_float),
        _format("f16", 1, 1, [("x", "<f2")], codecs.decode_float, codecs.encode_float),
        _format("bf16", 1, 30, [("x", "<u2")], codecs.decode_bf16, codecs.encode_bf16),
        _format("q4_0", 32, 2, [_D, _bytes("qs", 16)], codecs.decode_q4_0, codecs.encode_q4_0),
        _format("q4_1", 32, 3, [_D, _M, _bytes("qs", 16)], codecs.decode_q4_1, codecs.encode_q4_1),
        _format("q5_0", 32, 6, [_D, _bytes("qh", 4), _bytes("qs", 16)], codecs.decode_q5_0),
        _format("q5_1", 32, 7, [_D, _M, _bytes("qh", 4), _bytes("qs", 16)], codecs.decode_q5_1),
        _format("q8_0", 32, 8, [_D, ("qs", "i1", 32)], codecs.decode_q8_0, codecs.encode_q8_0),
        _format(
            "q2_k", 256, 10, [_bytes("scales", 16), _bytes("qs", 64), _D, _DMIN], codecs.decode_q2_k
        ),
        _format(
            "q3_k",
            256,
            11,
            [_bytes("hmask", 32), _bytes("qs", 64), _bytes("scales", 12), _D],
            codecs.decode_q3_k,
        ),
        _format(
            "q4_k",
            256,
            12,
            [_D, _DMIN, _bytes("scales", 12), _bytes("qs", 128)],
            codecs.decode_q4_k,
        ),
        _format(
            "q5_k",
            256,
            13,
            [_D, _DMIN, _bytes("scales", 12), _bytes("qh", 32), _bytes("qs", 128)],
            codecs.decode_q5_k,
        ),
        _format(
            "q6_k",
            256,
            14,
            [_bytes("ql", 128), _bytes("qh", 64), ("scales", "i1", 16), _D],
            codecs.decode_q6_k,
        ),
        _codebook("iq2_xxs", 256, 16, _D, ("words", "<u4", (8, 2))),
        _codebook("iq2_xs", 256, 17, _D, ("qs", "<u2", 32), _bytes("scales", 8)),
        _codebook("iq3_xxs", 256, 18, _D, _bytes("qs", 64), ("words", "<u4", 8)),
        _codebook("iq1_s", 256, 19, _D, _bytes("qs", 32), ("qh", "<u2", 8)),
        _codebook("iq4_nl", 32, 20, _D, _bytes("qs", 16)),
        _codebook(
            "iq3_s", 256, 21,
            _D, _bytes("qs", 64), _bytes("qh", 8), _bytes("signs", 32), _bytes("scales", 4),
        ),
        _codebook(
            "iq2_s", 256, 22,
            _D, _bytes("qs", 32), _bytes("signs", 32), _bytes("qh", 8), _bytes("scales", 8),
        ),
        _codebook(
            "iq4_xs", 256, 23, _D, ("scales_h", "<u2"), _bytes("scales_l", 4), _bytes("qs", 128)
        ),
        _codebook("iq1_m", 256, 29, _bytes("qs", 32), _bytes("qh", 16), ("scales", "<u2", 4)),
        _codebook("tq1_0", 256, 34, _bytes("qs", 48), _bytes("qh", 4), _D),
        _codebook("tq2_0", 256, 35, _bytes("qs", 64), _D),
        _codebook("mxfp4", 32, 39, ("e", "u1"), _bytes("qs", 16)),
        _codebook("nvfp4", 64, 40, _bytes("e", 4), _bytes("qs", 32)),
        # No file has it: what loading makes of IQ1 and IQ2 (recode.py).
        _codebook("t4_k", 256, None, _D, ("scales", "i1", 16), _bytes("qs", 128)),
    )
}  # fmt: skip
