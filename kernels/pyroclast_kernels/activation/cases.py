"""Cases of `swiglu` and `quantize`: widths that do not fill a block, exponentials that overflow."""

from __future__ import annotations

import numpy as np

from pyroclast_kernels.activations import BLOCK, Q8_BLOCK
from pyroclast_kernels.cases import EPS, Arguments, Array, Case


def _swiglu(n_tokens: int, d_ff: int, quantized: bool, scale: float) -> Arguments:
    rng = np.random.default_rng([n_tokens, d_ff])
    gate_up = rng.standard_normal((n_tokens + 1, 2 * d_ff)).astype(np.float32)
    gate_up[:, :d_ff] *= np.float32(scale)
    return {
        "n_tokens": np.array([n_tokens]),
        "gate_up": gate_up,
        "out": rng.standard_normal((n_tokens + 1, d_ff)).astype(np.float32),
        "out_q8": np.zeros((n_tokens + 1, d_ff // BLOCK), Q8_BLOCK) if quantized else None,
        "d_ff": d_ff,
    }


def _bound(arguments: Arguments, expected: Array) -> Array:
    bound: Array = 8 * EPS * np.abs(expected) + 1e-36
    return bound


def _case(n: int, d_ff: int, quantized: bool, scale: float = 1.0) -> Case:
    return Case(
        op="swiglu",
        format="f32",
        name=f"{n}x{d_ff}" + "-q8" * quantized + f"-scale{scale:g}" * (scale != 1),
        make=lambda: _swiglu(n, d_ff, quantized, scale),
        outputs=("out", "out_q8"),
        bound=_bound,
        reason="an exponential of 2 ulp, a sum, a quotient, a product; e^88 and more is infinite",
        flops=5 * n * d_ff,
        bytes=12 * n * d_ff,
    )


def _quantize(n_tokens: int, n_cols: int, scale: float) -> Arguments:
    rng = np.random.default_rng([n_tokens, n_cols])
    x = (rng.standard_normal((n_tokens + 1, n_cols)) * scale).astype(np.float32)
    x[0, :BLOCK] = 0
    return {
        "n_tokens": np.array([n_tokens]),
        "x": x,
        "out_q8": np.zeros((n_tokens + 1, n_cols // BLOCK), Q8_BLOCK),
        "n_cols": n_cols,
    }


def _quantize_case(n: int, n_cols: int, scale: float = 1.0) -> Case:
    return Case(
        op="quantize",
        format="f32",
        name=f"{n}x{n_cols}" + f"-scale{scale:g}" * (scale != 1),
        make=lambda: _quantize(n, n_cols, scale),
        outputs=("out_q8",),
        bound=lambda arguments, expected: 0.0,
        reason="a quotient and a product before the rounding: ties may fall either way",
        flops=4 * n * n_cols,
        bytes=5 * n * n_cols,
    )


CASES = [
    _quantize_case(1, 32),
    _quantize_case(7, 96),
    _quantize_case(2, 64, 1e30),
    _quantize_case(2, 64, 1e-30),
    _case(1, 1, False),
    _case(3, 45, False),
    _case(1, 1536, True),
    _case(17, 96, True),
    _case(2, 64, False, 60.0),
    _case(64, 1536, True),
]

# Hidden sizes of 1B to 8B models; one token is decoding, 512 are a prompt.
BENCH_CASES = [
    *(_quantize_case(n, d) for n in (1, 512) for d in (2048, 8192)),
    *(_case(n, 8192, quantized) for n in (1, 512) for quantized in (False, True)),
]
