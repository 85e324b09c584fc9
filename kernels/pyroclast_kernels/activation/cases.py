"""Cases of `glu` and `quantize`: widths that do not fill a block, exponentials that overflow."""

from __future__ import annotations

import numpy as np

from pyroclast_kernels.activation import ACTIVATIONS
from pyroclast_kernels.cases import EPS, Arguments, Array, Case
from pyroclast_kernels.q8_blocks import BLOCK, Q8_BLOCK

# Gates where something changes: an exponential overflows or is 0, an erf is 1 in float32, a square
# overflows or is 0; and, last, those that are not finite.
_EXTREMES = np.array(
    [
        *(0.0, -0.0, 1e-30, -1e-30, 1e-4, -1e-4, 0.75, -0.75, 3.9, -3.9, 5.6, -5.6, 9.0, -9.0),
        *(13.0, -13.0, 13.5, -13.5, 40.0, -40.0, 88.8, -88.8, 110.0, -110.0, 1e4, -1e4),
        *(2e19, -2e19, 1e38, -1e38, 1.0, -1.0, np.inf, -np.inf, np.nan),
    ],
    np.float32,
)


def _glu(
    shape: tuple[int, int], activation: str, quantized: bool, gates: float | Array, gated: bool
) -> Arguments:
    """gates: their scale, or the gates of every token."""
    n_tokens, d_ff = shape
    rng = np.random.default_rng([n_tokens, d_ff])
    gate_up = rng.standard_normal((n_tokens + 1, (1 + gated) * d_ff)).astype(np.float32)
    if isinstance(gates, float):
        gate_up[:, :d_ff] *= np.float32(gates)
    else:
        gate_up[:, : len(gates)] = gates
    return {
        "n_tokens": np.array([n_tokens]),
        "gate_up": gate_up,
        "out": rng.standard_normal((n_tokens + 1, d_ff)).astype(np.float32),
        "out_q8": np.zeros((n_tokens + 1, d_ff // BLOCK), Q8_BLOCK) if quantized else None,
        "d_ff": d_ff,
        "activation": ACTIVATIONS.index(activation),
        "gated": int(gated),
    }


def steps_of(gate: Array, activation: int) -> Array | float:
    """The largest relative error of the function of a gate, in units of 2^-23."""
    g = np.minimum(np.abs(gate.astype(np.float64)), 100.0)
    if ACTIVATIONS[activation] == "gelu_tanh":
        bound: Array = 12 + 6 * np.minimum(0.8 * (g + 0.044715 * g**3), 45.0)
        return bound
    if ACTIVATIONS[activation] == "gelu":
        return 12 + g * g / 4
    return {"silu": 8.0, "relu": 1.0, "relu2": 2.0}[ACTIVATIONS[activation]]


_REASONS = {
    "silu": "an exponential of 2 ulp, a sum, a quotient, a product; e^88 and more is infinite",
    "gelu_tanh": "as silu of 2u; the exponent is rounded four times, |2u| 2^-24 each",
    "gelu": "e^(-g^2 / 2) with g^2 rounded, a polynomial of 3 ulp, an exponential of 2, products",
    "relu": "a product",
    "relu2": "two products",
}


def _bound(arguments: Arguments, expected: Array) -> Array:
    d_ff, activation = arguments["d_ff"], arguments["activation"]
    gate, up = arguments["gate_up"][:, :d_ff], arguments["gate_up"][:, d_ff:]
    up = up if arguments["gated"] else np.float32(1)
    steps = np.nan_to_num(steps_of(gate, activation))
    # Below 1e-36 the share of a gate may be taken for 0, and 1 + erf may cancel in float64.
    cancelled = 2.0**-52 * np.nan_to_num(np.abs(gate.astype(np.float64) * up), posinf=0.0)
    bound: Array = steps * EPS * np.abs(expected) + 1e-36 * (1 + np.abs(up)) + cancelled
    return bound


def _case(
    n: int,
    d_ff: int,
    activation: str,
    quantized: bool,
    gates: float | Array = 1.0,
    suffix: str = "",
    gated: bool = True,
) -> Case:
    kind = f"-{activation}" * (activation != "silu")
    return Case(
        op="glu",
        format="f32",
        name=f"{n}x{d_ff}{kind}" + "-q8" * quantized + "-ungated" * (not gated) + suffix,
        make=lambda: _glu((n, d_ff), activation, quantized, gates, gated),
        outputs=("out", "out_q8"),
        bound=_bound,
        reason=_REASONS[activation],
        flops=5 * n * d_ff,
        bytes=(12 if gated else 8) * n * d_ff,
    )


def _quantize(n_tokens: int, n_cols: int, scale: float, bad: tuple[float, ...]) -> Arguments:
    """bad: values among those of the last block of a token."""
    rng = np.random.default_rng([n_tokens, n_cols])
    x = (rng.standard_normal((n_tokens + 1, n_cols)) * scale).astype(np.float32)
    x[0, :BLOCK] = 0
    for i, value in enumerate(bad):
        x[n_tokens - 1, n_cols - 1 - 9 * i] = value
    return {
        "n_tokens": np.array([n_tokens]),
        "x": x,
        "out_q8": np.zeros((n_tokens + 1, n_cols // BLOCK), Q8_BLOCK),
        "n_cols": n_cols,
    }


def _quantize_case(
    n: int, n_cols: int, scale: float = 1.0, bad: tuple[float, ...] = (), suffix: str = ""
) -> Case:
    return Case(
        op="quantize",
        format="f32",
        name=f"{n}x{n_cols}" + f"-scale{scale:g}" * (scale != 1) + suffix,
        make=lambda: _quantize(n, n_cols, scale, bad),
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
    _quantize_case(3, 64, bad=(np.nan,), suffix="-nan"),
    _quantize_case(3, 64, bad=(np.inf, np.nan, -np.inf), suffix="-infinite"),
    *(
        case
        for activation in ACTIVATIONS
        for case in (
            _case(1, 1, activation, False),
            _case(3, 45, activation, False),
            _case(1, 1536, activation, True),
            _case(17, 96, activation, True),
            _case(2, 64, activation, False, 60.0, "-scale60"),
            _case(64, 1536, activation, True),
            _case(2, 45, activation, False, _EXTREMES, "-extremes"),
            _case(2, 64, activation, True, _EXTREMES, "-extremes"),
            _case(3, 45, activation, False, gated=False),
            _case(17, 96, activation, True, gated=False),
            _case(2, 45, activation, False, _EXTREMES, "-extremes", gated=False),
        )
    ),
]

# Hidden sizes of 1B to 8B models; one token is decoding, 512 are a prompt.
BENCH_CASES = [
    *(_quantize_case(n, d) for n in (1, 512) for d in (2048, 8192)),
    *(_case(n, 8192, "silu", quantized) for n in (1, 512) for quantized in (False, True)),
    *(_case(n, 8192, activation, True) for n in (1, 512) for activation in ACTIVATIONS[1:]),
    *(_case(n, 8192, "gelu_tanh", True, gated=False) for n in (1, 512)),
]
