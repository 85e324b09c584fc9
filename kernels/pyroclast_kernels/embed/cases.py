"""Cases of `embed`: every format as it is, and with a factor, and added to what is there."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pyroclast_kernels.cases import Arguments, Case
from pyroclast_kernels.embed import FORMATS
from pyroclast_kernels.matmul.cases import BENCH_FORMATS, BENCH_SHAPES, bench_weight
from pyroclast_kernels.matmul.raw_rows import raw_rows
from pyroclast_kernels.weights import formats
from pyroclast_kernels.weights.blocks import LAYOUTS
from pyroclast_kernels.weights.packing import PackedWeight, pack_rows


def _embed(
    n_tokens: int, format: str, vocab_size: int, n_cols: int, scale: float, accumulate: int
) -> Arguments:
    rng = np.random.default_rng(n_tokens)
    weight = PackedWeight.empty(format, vocab_size, n_cols)
    pack_rows(raw_rows(rng, vocab_size, n_cols, format), weight, 0)
    token_ids = rng.integers(0, vocab_size, n_tokens + 1).astype(np.int32)
    token_ids[0] = vocab_size - 1  # in the last, unfilled group of rows
    return {
        "n_tokens": np.array([n_tokens]),
        "token_ids": token_ids,
        "weight": weight,
        "out": rng.standard_normal((n_tokens + 1, n_cols)).astype(np.float32),
        "n_cols": n_cols,
        "scale": scale,
        "accumulate": accumulate,
    }


def _case(
    n_tokens: int,
    format: str,
    vocab_size: int,
    n_cols: int,
    scale: float = 1.0,
    accumulate: int = 0,
) -> Case:
    options = f"-scale{scale:g}" * (scale != 1) + "-accumulate" * accumulate
    return Case(
        op="embed",
        format=format,
        name=f"{n_tokens}x{vocab_size}x{n_cols}{options}",
        make=lambda: _embed(n_tokens, format, vocab_size, n_cols, scale, accumulate),
        outputs=("out",),
        bound=lambda arguments, expected: 0.0,
        reason="each product and sum is rounded, in the order of the contract and of the format",
        bytes=n_tokens * (formats.row_bytes(n_cols, format) + 4 * n_cols),
    )


def _columns(format: str) -> int:
    """Of a header: a width that is no multiple of it cannot be packed."""
    return LAYOUTS[format].columns if format in LAYOUTS else 32


def _bench(n_tokens: int, format: str, n_rows: int, n_cols: int) -> Arguments:
    """As _embed, with the weight that matmul's cases have."""
    rng = np.random.default_rng(n_tokens)
    return {
        "n_tokens": np.array([n_tokens]),
        "token_ids": rng.integers(0, n_rows, n_tokens).astype(np.int32),
        "weight": bench_weight(format, n_rows, n_cols),
        "out": np.zeros((n_tokens, n_cols), np.float32),
        "n_cols": n_cols,
        "scale": 1.0,
        "accumulate": 0,
    }


def _bench_case(n_tokens: int, format: str) -> Case:
    _, n_rows, n_cols = BENCH_SHAPES[-1]
    case = _case(n_tokens, format, n_rows, n_cols)
    return replace(case, make=lambda: _bench(n_tokens, format, n_rows, n_cols))


BENCH_CASES = [_bench_case(n, f) for f in BENCH_FORMATS for n in (1, 512)]

CASES = [
    _case(n, f, v, n_headers * _columns(f))
    for f in FORMATS
    for n, v, n_headers in [(1, 17, 1), (9, 50, 5)]
] + [
    _case(3, f, 20, 2 * _columns(f), scale, accumulate)
    for f in FORMATS
    for scale, accumulate in [(45.25483, 0), (1.0, 1), (0.3, 1)]
]
