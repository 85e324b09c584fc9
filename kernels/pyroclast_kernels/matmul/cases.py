"""Cases of `matmul` and `pack`: the shapes of real models, and the awkward ones."""

from __future__ import annotations

import numpy as np

from pyroclast_kernels import activations, formats
from pyroclast_kernels.cases import EPS, Arguments, Array, Case
from pyroclast_kernels.matmul import BLOCK_FORMATS, FORMATS
from pyroclast_kernels.matmul.packing import PackedWeight, pack_rows

# (n_tokens, n_rows, n_cols): one row, rows that do not fill a group of 16, every tile tail.
_ODD = [(1, 1, 32), (3, 17, 96), (13, 50, 64), (17, 33, 160), (25, 16, 32)]
_MODELS = [(1, 576, 576), (1, 960, 1536), (4, 1536, 576), (64, 576, 1536)]
_OFFSET = 5  # of the packed rows, so that `pack` is seen to start inside a group


def raw_rows(rng: np.random.Generator, n_rows: int, n_cols: int, format: str) -> Array:
    """Random rows as in a file, uint8 (n_rows, row_bytes)."""
    values = rng.standard_normal((n_rows, n_cols)).astype(np.float32)
    return formats.quantize(values, format)


def _weight(rng: np.random.Generator, n_rows: int, n_cols: int, format: str) -> PackedWeight:
    weight = PackedWeight.empty(format, n_rows, n_cols)
    pack_rows(raw_rows(rng, n_rows, n_cols, format), weight, 0)
    return weight


def _matmul(shape: tuple[int, int, int], format: str, bias: bool, accumulate: bool) -> Arguments:
    n_tokens, n_rows, n_cols = shape
    rng = np.random.default_rng([n_tokens, n_rows, n_cols])
    x = rng.standard_normal((n_tokens, n_cols)).astype(np.float32)
    x[0, : n_cols // 2] *= 100  # blocks of very different scale
    stride = n_rows + 3
    return {
        "n_tokens": np.array([n_tokens]),
        "x": activations.quantize(x) if format in BLOCK_FORMATS else x,
        "weight": _weight(rng, n_rows, n_cols, format),
        "bias": rng.standard_normal(n_rows).astype(np.float32) if bias else None,
        "out": rng.standard_normal((n_tokens + 1, stride)).astype(np.float32),
        "n_rows": n_rows,
        "n_cols": n_cols,
        "out_stride": stride,
        "accumulate": int(accumulate),
    }


def _matmul_bound(arguments: Arguments, expected: Array) -> Array:
    """n_terms * eps * sum |w||x|: the classic bound of a float32 dot product, both sides."""
    weight, x = arguments["weight"], arguments["x"]
    values = activations.dequantize(x) if weight.takes_q8 else x
    n_terms = weight.n_cols // 32 * 2 if weight.takes_q8 else weight.n_cols
    sums = np.abs(values) @ np.abs(weight.dequantize()).T
    if weight.takes_q8:  # q8_0 and the offset formats cancel 128 * sum(x): exact integers, no loss;
        # q4_1 adds minimum * sum(x), whose terms may be larger than the values' own.
        sums = sums + 8 * np.abs(values).sum(axis=1, keepdims=True)
    bound = np.zeros_like(expected)
    bound[: len(sums), : weight.n_rows] = 2 * (n_terms + 4) * EPS * sums + 4 * EPS * np.abs(
        expected[: len(sums), : weight.n_rows]
    )
    return bound


def _matmul_case(shape: tuple[int, int, int], format: str, bias: bool, accumulate: bool) -> Case:
    n_tokens, n_rows, n_cols = shape
    suffix = "-bias" * bias + "-accumulate" * accumulate
    weight_bytes = n_rows * formats.row_bytes(n_cols, format)
    return Case(
        op="matmul",
        format=format,
        name=f"{n_tokens}x{n_rows}x{n_cols}{suffix}",
        make=lambda: _matmul(shape, format, bias, accumulate),
        outputs=("out",),
        bound=_matmul_bound,
        reason="float32 dot product: error <= 2 n eps sum |w||x|; exact integers inside a block",
        flops=2 * n_tokens * n_rows * n_cols,
        bytes=weight_bytes + 4 * n_tokens * (n_rows + n_cols),
    )


def _pack(format: str, n_rows: int, n_cols: int) -> Arguments:
    rng = np.random.default_rng([n_rows, n_cols])
    return {
        "raw": raw_rows(rng, n_rows, n_cols, format),
        "weight": PackedWeight.empty(format, n_rows + _OFFSET, n_cols),
        "n_rows": n_rows,
        "n_cols": n_cols,
        "row_offset": _OFFSET,
    }


def _pack_case(format: str, n_rows: int, n_cols: int) -> Case:
    n_bytes = n_rows * formats.row_bytes(n_cols, format)
    return Case(
        op="pack",
        format=format,
        name=f"{n_rows}x{n_cols}",
        make=lambda: _pack(format, n_rows, n_cols),
        outputs=("weight",),
        bound=lambda arguments, expected: 0.0,
        reason="bytes are moved, not computed",
        bytes=2 * n_bytes,
    )


CASES = [
    *(_matmul_case(shape, f, False, False) for f in FORMATS for shape in _ODD + _MODELS),
    *(_matmul_case((3, 50, 64), f, True, False) for f in FORMATS),
    *(_matmul_case((14, 50, 64), f, False, True) for f in FORMATS),
    *(_pack_case(f, *shape) for f in FORMATS for shape in [(1, 32), (40, 96), (100, 64)]),
]
