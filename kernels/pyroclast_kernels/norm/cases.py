"""Cases of `norm`: widths that do not fill a vector, gathered rows, extremes."""

from __future__ import annotations

import numpy as np

from pyroclast_kernels.cases import EPS, Arguments, Array, Case
from pyroclast_kernels.q8_blocks import BLOCK, Q8_BLOCK


def _norm(n_tokens: int, d_model: int, gathered: bool, quantized: bool, scale: float) -> Arguments:
    rng = np.random.default_rng([n_tokens, d_model])
    n_x = n_tokens + 4
    rows = rng.integers(0, n_x, n_tokens + 1).astype(np.int32)
    x = (rng.standard_normal((n_x, d_model)) * scale).astype(np.float32)
    n_blocks = d_model // BLOCK
    return {
        "n_tokens": np.array([n_tokens]),
        "rows": rows if gathered else None,
        "x": x,
        "weight": rng.standard_normal(d_model).astype(np.float32),
        "out": rng.standard_normal((n_tokens + 1, d_model)).astype(np.float32),
        "out_q8": np.zeros((n_tokens + 1, n_blocks), Q8_BLOCK) if quantized else None,
        "d_model": d_model,
        "eps": 1e-5,
    }


def _bound(arguments: Arguments, expected: Array) -> Array:
    n_adds = arguments["d_model"] / 16 + 8
    bound: Array = (n_adds / 2 + 6) * EPS * np.abs(expected)
    return bound


def _case(n: int, d: int, gathered: bool, quantized: bool, scale: float = 1.0) -> Case:
    suffix = "-gathered" * gathered + "-q8" * quantized + f"-scale{scale:g}" * (scale != 1)
    return Case(
        op="norm",
        format="f32",
        name=f"{n}x{d}{suffix}",
        make=lambda: _norm(n, d, gathered, quantized, scale),
        outputs=("out", "out_q8"),
        bound=_bound,
        reason="a sum of d / 16 + 8 float32 steps, halved by the root, and six roundings",
        flops=4 * n * d,
        bytes=8 * n * d,
    )


CASES = [
    _case(1, 1, False, False),
    _case(2, 40, False, False),
    _case(3, 77, True, False),
    _case(1, 576, False, True),
    _case(5, 2048, True, True),
    _case(2, 64, False, True, 1e-18),  # eps decides
    _case(2, 64, False, True, 1e15),
    _case(64, 576, False, True),
]

BENCH_CASES = [_case(n, 2048, False, quantized) for n in (1, 512) for quantized in (False, True)]
