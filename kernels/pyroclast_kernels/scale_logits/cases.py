"""Cases of `scale_logits`: factor and cap alone and together, rows that fill no vector or block."""

from __future__ import annotations

import numpy as np

from pyroclast_kernels.cases import EPS, Arguments, Array, Case

# Logits where something changes: the form of tanh (0.625 of the cap), its value 1 in float32, an
# exponential that overflows; a product that overflows; what is not finite.
_EXTREMES = np.array(
    [
        *(0.0, -0.0, 1e-20, -1e-20, 1e-3, -1e-3, 0.624, 0.626, -0.624, -0.626, 4.0, -4.0),
        *(8.0, -8.0, 9.5, -9.5, 44.0, -44.0, 45.0, -45.0, 1e30, -1e30, 3e36, -3e36),
        *(np.inf, -np.inf, np.nan),
    ],
    np.float32,
)


def _scale_logits(shape: tuple[int, int], scale: float, softcap: float) -> Arguments:
    n_tokens, n_cols = shape
    rng = np.random.default_rng([n_tokens, n_cols])
    logits = (rng.standard_normal((n_tokens + 1, n_cols)) * 20).astype(np.float32)
    extremes = _EXTREMES[:n_cols] * np.float32(softcap or 1)
    logits[n_tokens // 2, n_cols - len(extremes) :] = extremes
    return {
        "n_tokens": np.array([n_tokens]),
        "logits": logits,
        "n_cols": n_cols,
        "scale": scale,
        "softcap": softcap,
    }


def _bound(_arguments: Arguments, expected: Array) -> Array:
    bound: Array = 8 * EPS * np.abs(expected)
    return bound


def _case(n_tokens: int, n_cols: int, scale: float, softcap: float) -> Case:
    return Case(
        op="scale_logits",
        format="f32",
        name=f"{n_tokens}x{n_cols}-scale{scale:g}-cap{softcap:g}",
        make=lambda: _scale_logits((n_tokens, n_cols), scale, softcap),
        outputs=("logits",),
        bound=_bound,
        reason="a product, a quotient, a tanh of 3 ulp, a product; tanh damps errors before it",
        flops=(25 if softcap else 1) * n_tokens * n_cols,  # an exponential counts as 20
        bytes=8 * n_tokens * n_cols,
    )


CASES = [
    _case(n_tokens, n_cols, scale, softcap)
    for n_tokens, n_cols in [(1, 1), (3, 45), (2, 1024), (7, 2500)]
    for scale, softcap in [(0.0625, 0.0), (1.0, 30.0), (-37.0, 15.0)]
]

# A vocabulary of Gemma 2's size.
BENCH_CASES = [_case(n, 256_000, *values) for n in (1, 64) for values in [(0.1, 0.0), (1.0, 30.0)]]
