"""Cases of `matmul`, `gate_up` and `pack`: the shapes of real models, and the awkward ones."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np

from pyroclast_kernels import q8_blocks
from pyroclast_kernels.activation import ACTIVATIONS
from pyroclast_kernels.activation.cases import steps_of
from pyroclast_kernels.activation.reference import gated
from pyroclast_kernels.cases import EPS, Arguments, Array, Case
from pyroclast_kernels.matmul.bounds import TF32_CUT, product_error
from pyroclast_kernels.matmul.raw_rows import raw_rows
from pyroclast_kernels.weights import BLOCK_FORMATS, PACKED_FORMATS, formats
from pyroclast_kernels.weights.blocks import LAYOUTS, SUPER
from pyroclast_kernels.weights.packing import PackedWeight, pack_rows

# (n_tokens, n_rows, n_cols): one row, rows that do not fill a group of 16, every tile tail.
_ODD = [(1, 1, 32), (3, 17, 96), (13, 50, 64), (17, 33, 160), (25, 16, 32)]
_MODELS = [(1, 576, 576), (1, 960, 1536), (4, 1536, 576), (64, 576, 1536)]
# Plain values: columns that fill no vector, an odd one out of pairs, one alone; activations that
# are laid out in several goes, and weights in several panels.
_ODD_VALUES = [(1, 1, 1), (2, 3, 33), (5, 70, 17), (7, 40, 15), (29, 33, 95), (9, 130, 2048)]
_LONG = (66, 17, 32768)
_ODD_K = [(1, 1, 256), (3, 17, 768), (13, 50, 512), (16, 33, 256), (23, 16, 256)]
_MODELS_K = [(1, 576, 512), (4, 960, 1536), (64, 576, 1536)]
# Bytes of the largest codes, and the fields that hold codes: sums of products are largest there.
_LARGEST_CODES = {"q8_0": 0x80, "mxfp4": 0x77, "t4_k": 0xCC}
_CODE_FIELDS = ("qs", "qh", "ql", "hmask")
_OFFSET = 5  # of the packed rows, so that `pack` is seen to start inside a group


def _weight(rng: np.random.Generator, n_rows: int, n_cols: int, format: str) -> PackedWeight:
    weight = PackedWeight.empty(format, n_rows, n_cols)
    pack_rows(raw_rows(rng, n_rows, n_cols, format), weight, 0)
    return weight


def _matmul(
    shape: tuple[int, int, int], format: str, bias: bool, accumulate: bool, rounds: bool
) -> Arguments:
    n_tokens, n_rows, n_cols = shape
    rng = np.random.default_rng([n_tokens, n_rows, n_cols])
    x = rng.standard_normal((n_tokens, n_cols)).astype(np.float32)
    x[0, : n_cols // 2] *= 100  # blocks of very different scale
    if format == "bf16" and not rounds:
        x.view(np.uint32)[:] &= 0xFFFF0000  # a bfloat16 already: no variant may lose any of it
    stride = n_rows + 3
    return {
        "n_tokens": np.array([n_tokens]),
        "x": q8_blocks.quantize(x) if format in BLOCK_FORMATS else x,
        "weight": _weight(rng, n_rows, n_cols, format),
        "bias": rng.standard_normal(n_rows).astype(np.float32) if bias else None,
        "out": rng.standard_normal((n_tokens + 1, stride)).astype(np.float32),
        "n_rows": n_rows,
        "n_cols": n_cols,
        "out_stride": stride,
        "accumulate": int(accumulate),
    }


def _largest(n_tokens: int, n_rows: int, n_cols: int, format: str) -> Arguments:
    """Codes and activations as large as they can be (of iq3_s every second pair of codes), all of
    one sign or in turn."""
    arguments = _matmul((n_tokens, n_rows, n_cols), format, False, False, False)
    raw = raw_rows(np.random.default_rng(n_cols), n_rows, n_cols, format)
    blocks = raw.view(formats.FORMATS[format].dtype)
    for name in _CODE_FIELDS:
        if name in (blocks.dtype.names or ()):
            blocks[name].view(np.uint8)[:] = _LARGEST_CODES.get(format, 0xFF)
    if format == "iq3_s":
        blocks["signs"] = 0
    pack_rows(raw, arguments["weight"], 0)
    x = np.ones((n_tokens, n_cols), np.float32)
    x[1], x[2, ::2] = -1, -1
    return arguments | {"x": q8_blocks.quantize(x)}


def _matmul_bound(arguments: Arguments, expected: Array, x_error: float = 0.0) -> Array:
    """product_error, and the rounding of bias and of what is added to."""
    error = product_error(arguments["weight"], arguments["x"], x_error=x_error)
    bound = np.zeros_like(expected)
    bound[: len(error), : error.shape[1]] = error + 4 * EPS * np.abs(
        expected[: len(error), : error.shape[1]]
    )
    return bound


def _matmul_bound_tf32(arguments: Arguments, expected: Array) -> Array:
    """float16 weights on tensor cores: they are exact there, and x is cut to tf32."""
    return _matmul_bound(arguments, expected, TF32_CUT)


def _matmul_case(
    shape: tuple[int, int, int], format: str, bias: bool, accumulate: bool, rounds: bool = False
) -> Case:
    n_tokens, n_rows, n_cols = shape
    suffix = "-bias" * bias + "-accumulate" * accumulate + "-rounds" * rounds
    weight_bytes = n_rows * formats.row_bytes(n_cols, format)
    return Case(
        op="matmul",
        format=format,
        name=f"{n_tokens}x{n_rows}x{n_cols}{suffix}",
        make=lambda: _matmul(shape, format, bias, accumulate, rounds),
        outputs=("out",),
        bound=_matmul_bound,
        reason="float32 dot product: error <= 2 n eps sum |w||x|; exact integers inside a block"
        + "; x rounded to 8 bits: 2^-8 sum |w||x|" * rounds,
        flops=2 * n_tokens * n_rows * n_cols,
        bytes=weight_bytes + 4 * n_tokens * (n_rows + n_cols),
        rounded=_matmul_bound_tf32 if format == "f16" else None,
    )


def _largest_case(n_tokens: int, n_rows: int, n_cols: int, format: str) -> Case:
    case = _matmul_case((n_tokens, n_rows, n_cols), format, False, False)
    return replace(
        case,
        name=f"{case.name}-largest",
        make=lambda: _largest(n_tokens, n_rows, n_cols, format),
    )


def _gate_up(shape: tuple[int, int, int], format: str, outputs: str, activation: str) -> Arguments:
    n_tokens, d_ff, n_cols = shape
    rng = np.random.default_rng([n_tokens, d_ff, n_cols])
    x = rng.standard_normal((n_tokens, n_cols)).astype(np.float32) / np.float32(np.sqrt(n_cols))
    x[0] *= 20  # gates far from zero, where silu is flat or the identity
    q8 = np.zeros((n_tokens + 1, d_ff // 32), q8_blocks.Q8_BLOCK)
    return {
        "n_tokens": np.array([n_tokens]),
        "x": q8_blocks.quantize(x),
        "weight": _weight(rng, 2 * d_ff, n_cols, format),
        "out": np.zeros((n_tokens + 1, d_ff), np.float32) if "values" in outputs else None,
        "out_q8": q8 if "q8" in outputs else None,
        "d_ff": d_ff,
        "n_cols": n_cols,
        "activation": ACTIVATIONS.index(activation),
    }


def _gate_up_bound(arguments: Arguments, expected: Array) -> Array:
    """|d(f(g) u)| <= 1.2 |u| dg + |f(g)| du and the rounding of f itself: the slope of silu is at
    most 1.1, that of gelu 1.13.  dg and du are the bounds of the products."""
    weight, d_ff = arguments["weight"], arguments["d_ff"]
    x = q8_blocks.dequantize(arguments["x"])
    sums = np.zeros((len(x), 2 * d_ff), np.float32)
    errors = _matmul_bound(arguments, sums)
    y = x @ weight.dequantize().T
    gate, up = y[:, :d_ff], y[:, d_ff:]
    function = np.abs(gated(gate, np.ones_like(gate), arguments["activation"]))
    bound = np.zeros_like(expected)
    bound[: len(x)] = 1.2 * np.abs(up) * errors[:, :d_ff] + function * errors[:, d_ff:]
    steps = steps_of(gate, arguments["activation"])
    bound[: len(x)] += steps * EPS * function * np.abs(up) + 1e-36 * (1 + np.abs(up))
    return bound


def _gate_up_case(
    shape: tuple[int, int, int], format: str, outputs: str, activation: str = "silu"
) -> Case:
    n_tokens, d_ff, n_cols = shape
    kind = f"-{activation}" * (activation != "silu")
    return Case(
        op="gate_up",
        format=format,
        name=f"{n_tokens}x{d_ff}x{n_cols}{kind}-{outputs}",
        make=lambda: _gate_up(shape, format, outputs, activation),
        outputs=("out", "out_q8"),
        bound=_gate_up_bound,
        reason="two float32 dot products, carried through f(g) * u; f as in the cases of glu",
        flops=4 * n_tokens * d_ff * n_cols,
        bytes=2 * d_ff * formats.row_bytes(n_cols, format) + 4 * n_tokens * (d_ff + n_cols),
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
_OTHER_FORMATS = [f for f in PACKED_FORMATS if f not in _SUPER_FORMATS]
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
] + [
    _gate_up_case((n_tokens, d_ff, LAYOUTS[f].columns * n_blocks), f, outputs)
    for f in BLOCK_FORMATS
    for n_tokens, d_ff, n_blocks, outputs in [
        (1, 32, 1, "values-q8"), (2, 48, 3, "values"), (7, 96, 2, "q8"), (25, 160, 1, "values-q8"),
    ]
]  # fmt: skip
CASES += [_largest_case(5, 33, LAYOUTS[f].columns * 2, f) for f in BLOCK_FORMATS]
CASES += [
    _gate_up_case((n, 96, LAYOUTS[f].columns * 2), f, outputs, activation)
    for f in ("q8_0", "q4_k")
    for activation in ACTIVATIONS[1:]
    for n, outputs in ((1, "values-q8"), (9, "values-q8"), (2, "values"))
]
CASES += [
    case
    for f in PACKED_FORMATS
    if f not in BLOCK_FORMATS
    for case in (
        *(_matmul_case(shape, f, False, False) for shape in [*_ODD_VALUES, _LONG]),
        _matmul_case((3, 50, 31), f, True, True),
        _pack_case(f, 20, 33),
    )
]
CASES += [
    _matmul_case(shape, "bf16", False, False, rounds=True)
    for shape in [(1, 576, 576), (13, 50, 63), (64, 576, 1536)]
]

# (n_tokens, n_rows, n_cols) of a 1B model: an attention projection, and one of the feed-forward
# block, which NumPy would take minutes for with a prompt.
BENCH_SHAPES = [(n, 2048, 2048) for n in (1, 8, 512)] + [(n, 8192, 2048) for n in (1, 8)]
BENCH_FORMATS = ("f32", "bf16", "q8_0", "q4_0", "q4_k")


@lru_cache(maxsize=1)
def bench_weight(format: str, n_rows: int, n_cols: int) -> PackedWeight:
    """A weight that neighbouring cases share, since it takes seconds to make; not to be written."""
    # Rows repeat after 256: no product can tell, and random numbers cost more than all the rest.
    raw = raw_rows(np.random.default_rng([n_rows, n_cols]), min(n_rows, 256), n_cols, format)
    weight = PackedWeight.empty(format, n_rows, n_cols)
    for first in range(0, n_rows, len(raw)):
        pack_rows(raw[: n_rows - first], weight, first)
    return weight


def _bench(n_tokens: int, n_rows: int, n_cols: int, format: str) -> Arguments:
    rng = np.random.default_rng([n_tokens, n_rows, n_cols])
    x = rng.standard_normal((n_tokens, n_cols)).astype(np.float32)
    return {
        "n_tokens": np.array([n_tokens]),
        "x": q8_blocks.quantize(x) if format in BLOCK_FORMATS else x,
        "weight": bench_weight(format, n_rows, n_cols),
        "bias": None,
        "out": np.zeros((n_tokens, n_rows), np.float32),
        "n_rows": n_rows,
        "n_cols": n_cols,
        "out_stride": n_rows,
        "accumulate": 0,
    }


def _bench_case(n_tokens: int, n_rows: int, n_cols: int, format: str) -> Case:
    case = _matmul_case((n_tokens, n_rows, n_cols), format, False, False)
    return replace(case, make=lambda: _bench(n_tokens, n_rows, n_cols, format))


BENCH_CASES = [
    *(_bench_case(*shape, f) for f in BENCH_FORMATS for shape in BENCH_SHAPES),
    *(_pack_case(f, 512, 2048) for f in ("q8_0", "q4_k")),
    *(
        _gate_up_case((n, 2048, 2048), f, "q8")
        for f in BENCH_FORMATS
        if f in BLOCK_FORMATS
        for n in (1, 512)
    ),
]
