"""Cases of `matmul` and `pack`: the shapes of real models, and the awkward ones."""

from __future__ import annotations

import numpy as np

from pyroclast_kernels import activations, formats
from pyroclast_kernels.cases import EPS, Arguments, Array, Case
from pyroclast_kernels.matmul import BLOCK_FORMATS, FORMATS
from pyroclast_kernels.matmul.blocks import LAYOUTS, SUPER
from pyroclast_kernels.matmul.packing import PackedWeight, pack_rows

# (n_tokens, n_rows, n_cols): one row, rows that do not fill a group of 16, every tile tail.
_ODD = [(1, 1, 32), (3, 17, 96), (13, 50, 64), (17, 33, 160), (25, 16, 32)]
_MODELS = [(1, 576, 576), (1, 960, 1536), (4, 1536, 576), (64, 576, 1536)]
_ODD_K = [(1, 1, 256), (3, 17, 768), (13, 50, 512), (16, 33, 256), (23, 16, 256)]
_MODELS_K = [(1, 576, 512), (4, 960, 1536), (64, 576, 1536)]
_OFFSET = 5  # of the packed rows, so that `pack` is seen to start inside a group


def raw_rows(rng: np.random.Generator, n_rows: int, n_cols: int, format: str) -> Array:
    """Random rows as in a file, uint8 (n_rows, row_bytes)."""
    if format in formats.quantizable_formats():
        values = rng.standard_normal((n_rows, n_cols)).astype(np.float32)
        return formats.quantize(values, format)
    # No encoder here: every bit pattern is a block, so that all codes and small scales occur; only
    # the float16 numbers are drawn such that values come out near 1.
    raw = rng.integers(0, 256, (n_rows, formats.row_bytes(n_cols, format)), np.uint8)
    blocks, layout = raw.view(formats.FORMATS[format].dtype), LAYOUTS[format]
    largest = {"q2_k": 15, "q3_k": 32, "q4_k": 63, "q5_k": 63, "q6_k": 128}.get(format, 1)
    for name, unit in {"d": 1 << layout.bits, "dmin": 1, "m": 1}.items():
        if name in (blocks.dtype.names or ()):
            factors = rng.uniform(-4, 4, blocks.shape) / (unit * largest)
            blocks[name] = factors.astype(np.float16)
    return raw


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
    # q8_0 and its like cancel 128 * sum(x): exact integers, no loss.  Where a minimum is added
    # apart, its terms and the products may both be larger than their sum.
    weights, minimums = weight.terms()
    sums = np.abs(values) @ (np.abs(weights) + 2 * np.abs(minimums)).T
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


_SUPER_FORMATS = [f for f in BLOCK_FORMATS if LAYOUTS[f].columns == SUPER]
_OTHER_FORMATS = [f for f in FORMATS if f not in _SUPER_FORMATS]
_GROUPS = [(_OTHER_FORMATS, _ODD + _MODELS, 64), (_SUPER_FORMATS, _ODD_K + _MODELS_K, 512)]

CASES = [
    case
    for names, shapes, n_cols in _GROUPS
    for f in names
    for case in (
        *(_matmul_case(shape, f, False, False) for shape in shapes),
        _matmul_case((3, 50, n_cols), f, True, False),
        _matmul_case((14, 50, n_cols), f, False, True),
        *(_pack_case(f, *s) for s in [(1, n_cols // 2), (40, n_cols * 3 // 2), (100, n_cols)]),
    )
]
